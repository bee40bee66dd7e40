// Lanes exchange through shared memory with nothing but warp barriers between.
extern "C" __global__ void warp_exchange(const int* x, int* y) {
    __shared__ int buffer[128];
    int t = threadIdx.x, base = t & ~31, lane = t & 31;
    int v = x[t];
    for (int k = 0; k < 3; k++) {
        buffer[t] = v;
        __syncwarp();
        v = v * 2 + buffer[base + (lane ^ (k + 1))];
        __syncwarp();
    }
    if (lane < 16) {
        buffer[t] = v;
        __syncwarp(0xffff);
        v += buffer[base + 15 - lane];
    }
    y[t] = v;
}
