// C[64 x 32] = A[64 x K] B[K x 32]: ldmatrix, ldmatrix.trans, mma.m16n8k16 with f32 and f16 sums.
#include <cuda_fp16.h>
#include "gemm.h"
extern "C" __global__ void gemm_f16(const __half* a, const __half* b, float* c, __half* h, int k) {
    __shared__ __align__(16) __half as[64][24], bs[16][40];  // rows padded against bank conflicts
    float sum[4][4] = {};
    u32 half_sum[4][2] = {};
    int t = threadIdx.x;  // 128
#pragma unroll 1
    for (int at = 0; at < k; at += 16) {
        copy16(&as[t >> 1][(t & 1) * 8], a + (t >> 1) * k + at + (t & 1) * 8);
        if (t < 64) copy16(&bs[t >> 2][(t & 3) * 8], b + (at + (t >> 2)) * 32 + (t & 3) * 8);
        copies_done();
        __syncthreads();
        u32 x[4];
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
            : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
            : "r"(shared_address(&as[WARP * 16 + (LANE & 15)][(LANE >> 4) * 8])));
        for (int n = 0; n < 4; n++) {
            u32 y[2];
            asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                : "=r"(y[0]), "=r"(y[1]) : "r"(shared_address(&bs[LANE & 15][n * 8])));
            float* d = sum[n];
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
            u32* e = half_sum[n];
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 "
                "{%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
                : "+r"(e[0]), "+r"(e[1])
                : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
        }
        __syncthreads();
    }
    for (int n = 0; n < 4; n++)
        for (int r = 0; r < 2; r++) {
            int at = (WARP * 16 + r * 8 + (LANE >> 2)) * 32 + n * 8 + (LANE & 3) * 2;
            *(float2*)&c[at] = make_float2(sum[n][r * 2], sum[n][r * 2 + 1]);
            *(u32*)&h[at] = half_sum[n][r];
        }
}
