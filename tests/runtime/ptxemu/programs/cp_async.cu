// Two stages of asynchronous copies in flight while a third is used.
#include <cuda_pipeline_primitives.h>
extern "C" __global__ void cp_async(const float* x, float* y, int tiles, int valid) {
    __shared__ __align__(16) float stage[3][512];
    int t = threadIdx.x;  // 128
    const float* from = x + blockIdx.x * tiles * 512;
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < 2; k++) {
        __pipeline_memcpy_async(&stage[k][t * 4], from + k * 512 + t * 4, 16);
        __pipeline_commit();
    }
#pragma unroll 1
    for (int k = 0; k < tiles; k++) {
        if (k + 1 < tiles) __pipeline_wait_prior(1); else __pipeline_wait_prior(0);
        __syncthreads();
        int next = k + 2;
        if (next < tiles) {
            int zeros = next == tiles - 1 && t * 4 >= valid ? 16 : 0;
            __pipeline_memcpy_async(&stage[next % 3][t * 4], from + next * 512 + t * 4, 16, zeros);
            __pipeline_commit();
        }
        const float* s = stage[k % 3];
        for (int j = 0; j < 4; j++) sum += s[(t + 7 + j * 128) & 511] * (float)(k + 1);
    }
    y[blockIdx.x * 128 + t] = sum;
}
