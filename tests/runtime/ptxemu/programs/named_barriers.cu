// One warp makes, three use: named barriers with counts, two buffers.
extern "C" __global__ void named_barriers(const int* x, int* y, int rounds) {
    __shared__ int buffer[2][32];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    if (warp == 0) {
#pragma unroll 1
        for (int k = 0; k < rounds; k++) {
            if (k >= 2) asm volatile("bar.sync %0, 128;" :: "r"(3 + (k & 1)) : "memory");
            buffer[k & 1][lane] = x[k * 32 + lane] + 1;
            asm volatile("bar.arrive %0, 128;" :: "r"(1 + (k & 1)) : "memory");
        }
    } else {
        int sum = 0;
#pragma unroll 1
        for (int k = 0; k < rounds; k++) {
            asm volatile("bar.sync %0, 128;" :: "r"(1 + (k & 1)) : "memory");
            sum += buffer[k & 1][(lane + warp) & 31];
            if (k + 2 < rounds) asm volatile("bar.arrive %0, 128;" :: "r"(3 + (k & 1)) : "memory");
        }
        y[threadIdx.x - 32] = sum;
    }
}
