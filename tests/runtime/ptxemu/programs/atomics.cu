// Every kind of atomic, and a maximum of floats by compare and swap.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void atomics(const int* x, int* out, float* most, __half2* h, __nv_bfloat162* b,
                                   double* d, unsigned long long* wide) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int v = x[i];
    atomicAdd(&out[0], v);
    atomicMin(&out[1], v);
    atomicMax(&out[2], v);
    atomicAnd(&out[3], v | 0x10);
    atomicOr(&out[4], v & 0xff);
    atomicXor(&out[5], v);
    atomicInc((unsigned*)&out[6], 99);
    atomicDec((unsigned*)&out[7], 99);
    atomicAdd(&h[0], __floats2half2_rn(1.0f, (float)(v & 3)));
    atomicAdd(&b[0], __floats2bfloat162_rn(0.5f, (float)(v & 1)));
    atomicAdd(&d[0], (double)v);
    atomicAdd(&wide[0], 1ull << (i & 31));
    int* address = (int*)most;
    float f = (float)v * 0.5f;
    int seen = *(volatile int*)address;
    while (__int_as_float(seen) < f) {
        int before = atomicCAS(address, seen, __float_as_int(f));
        if (before == seen) break;
        seen = before;
    }
}
