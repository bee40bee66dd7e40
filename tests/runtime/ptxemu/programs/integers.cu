// Instructions on the bits of integers.
extern "C" __global__ void integers(const unsigned* a, const unsigned* b, unsigned* out) {
    int i = threadIdx.x, n = blockDim.x;
    unsigned x = a[i], y = b[i];
    unsigned* o = out + i;
    unsigned r;
    o[0 * n] = __byte_perm(x, y, 0x5341 ^ (y & 0x7777));
    asm("lop3.b32 %0, %1, %2, %3, 0xe8;" : "=r"(o[1 * n]) : "r"(x), "r"(y), "r"(x * 31 + y));
    o[2 * n] = __funnelshift_l(x, y, y & 63);
    o[3 * n] = __funnelshift_rc(x, y, y & 63);
    o[4 * n] = __popc(x) + 100 * __clz(x) + 10000 * __ffs(y);
    o[5 * n] = __brev(x);
    o[6 * n] = __dp4a((int)x, (int)y, 12345);
    o[7 * n] = __dp2a_hi(x, y, 99u);
    o[8 * n] = __umulhi(x, y);
    o[9 * n] = __mulhi((int)x, (int)y);
    o[10 * n] = __sad((int)x, (int)y, 5u);
    o[11 * n] = __mul24((int)x, (int)y) + __umul24(x, y);
    asm("bfe.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y & 31), "r"((y >> 8) & 31));
    o[12 * n] = r;
    asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(r) : "r"(x), "r"(y), "r"(x & 31), "r"((x >> 8) & 31));
    o[13 * n] = r;
    o[14 * n] = (unsigned)((int)x / ((int)y | 1)) ^ (x % (y | 1));
    o[15 * n] = __rhadd((int)x, (int)y) ^ (x << (y & 31)) ^ ((int)x >> (y & 31));
    o[16 * n] = max((int)x, (int)y) - min(x, y) + (unsigned)abs((int)x);
    asm("bfind.u32 %0, %1;" : "=r"(r) : "r"(x));
    o[17 * n] = r;
    o[18 * n] = (unsigned char)x + (short)y + (signed char)(x >> 8);
    asm("add.sat.s32 %0, %1, %2;" : "=r"(r) : "r"(x), "r"(y));
    o[19 * n] = r;
}
