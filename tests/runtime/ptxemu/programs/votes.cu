// What lanes say to each other without memory.
extern "C" __global__ void votes(const int* x, unsigned* out) {
    int t = threadIdx.x, n = blockDim.x;
    int v = x[t];
    unsigned* o = out + t;
    o[0 * n] = __ballot_sync(~0u, v & 1);
    o[1 * n] = __any_sync(~0u, v == 7);
    o[2 * n] = __all_sync(~0u, v >= 0);
    o[3 * n] = __match_any_sync(~0u, v);
    int same;
    o[4 * n] = __match_all_sync(~0u, v >> 8, &same) + same;
    o[5 * n] = __reduce_add_sync(~0u, (unsigned)v);
    o[6 * n] = __reduce_min_sync(~0u, v);
    o[7 * n] = __reduce_xor_sync(~0u, (unsigned)v);
    unsigned seen = 0;
    if (v & 2) {
        unsigned here = __ballot_sync(__activemask(), 1);
        seen = here + __shfl_sync(here, v, __ffs(here) - 1);
    }
    o[8 * n] = seen;
    o[9 * n] = __shfl_sync(~0u, v, t + 3, 8);
    o[10 * n] = __syncthreads_count(v & 1) + __syncthreads_or(v == 7) * 1000
              + __syncthreads_and(v >= 0) * 10000;
}
