// A tree in shared memory, with a barrier after each level.
extern "C" __global__ void tree_reduce(const int* x, int* sums) {
    __shared__ int part[256];
    int t = threadIdx.x;
    part[t] = x[blockIdx.x * 256 + t];
    __syncthreads();
#pragma unroll 1
    for (int width = 128; width > 0; width >>= 1) {
        if (t < width) part[t] += part[t + width];
        __syncthreads();
    }
    if (t == 0) sums[blockIdx.x] = part[0];
}
