// Shuffles within warps, shared memory between them.
extern "C" __global__ void warp_reduce(const float* x, float* sums, float* greatest) {
    __shared__ float part[8];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float v = x[blockIdx.x * blockDim.x + threadIdx.x];
    float top = v;
    for (int d = 16; d; d >>= 1) {
        v += __shfl_down_sync(~0u, v, d);
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    }
    if (lane == 0) part[warp] = v;
    __syncthreads();
    if (warp == 0) {
        v = lane < 8 ? part[lane] : 0.0f;
        for (int d = 4; d; d >>= 1) v += __shfl_down_sync(0xffu, v, d, 8);
        if (lane == 0) sums[blockIdx.x] = v;
    }
    __syncthreads();
    if (lane == 0) part[warp] = top;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 8; w++) top = fmaxf(top, part[w]);
        greatest[blockIdx.x] = top;
    }
}
