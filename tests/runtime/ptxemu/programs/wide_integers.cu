// 64 bits and more.
typedef unsigned long long u64;
extern "C" __global__ void wide_integers(const u64* a, const u64* b, u64* out) {
    int i = threadIdx.x, n = blockDim.x;
    u64 x = a[i], y = b[i];
    u64* o = out + i;
    o[0 * n] = __umul64hi(x, y);
    o[1 * n] = (u64)__mul64hi((long long)x, (long long)y);
    o[2 * n] = x / (y | 1) + x % (y | 1);
    o[3 * n] = (u64)((long long)x / ((long long)y | 1));
    o[4 * n] = __popcll(x) + 100 * __clzll(y) + 100000 * __ffsll(x);
    o[5 * n] = __brevll(x) ^ (x << (y & 63)) ^ (u64)((long long)x >> (y & 63));
    unsigned __int128 wide = (unsigned __int128)x * y + ((unsigned __int128)y << 64 | x);
    o[6 * n] = (u64)wide;
    o[7 * n] = (u64)(wide >> 64);
    o[8 * n] = (u64)(double)x ^ (u64)(float)(long long)y;
    o[9 * n] = (u64)__double2ll_rn((double)(long long)x * 0.37) + __float2ull_rz((float)(y >> 40));
    o[10 * n] = (u64)(unsigned)x * (unsigned)y + (u64)((long long)(int)x * (int)y);
    o[11 * n] = max(x, y) - (u64)min((long long)x, (long long)y);
}
