// Inclusive prefix sums of a block.
extern "C" __global__ void scan(const int* x, int* y) {
    __shared__ int totals[32];
    int t = threadIdx.x, lane = t & 31, warp = t >> 5;
    int v = x[blockIdx.x * blockDim.x + t];
    for (int d = 1; d < 32; d <<= 1) {
        int up = __shfl_up_sync(~0u, v, d);
        if (lane >= d) v += up;
    }
    if (lane == 31) totals[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int s = lane < (int)(blockDim.x >> 5) ? totals[lane] : 0;
        for (int d = 1; d < 32; d <<= 1) {
            int up = __shfl_up_sync(~0u, s, d);
            if (lane >= d) s += up;
        }
        totals[lane] = s;
    }
    __syncthreads();
    y[blockIdx.x * blockDim.x + t] = v + (warp ? totals[warp - 1] : 0);
}
