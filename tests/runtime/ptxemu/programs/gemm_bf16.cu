// C[16 x 8] = A[16 x 8] B[8 x 8] + C, then stmatrix of the result as bf16 (sm_90).
#include <cuda_bf16.h>
#include "gemm.h"
extern "C" __global__ void gemm_bf16(const u32* a, const u32* b, float* c, __nv_bfloat16* out) {
    __shared__ __align__(16) __nv_bfloat16 tile[16][8];
    int g = LANE >> 2, t = LANE & 3;
    u32 x[2] = {a[g * 4 + t], a[(g + 8) * 4 + t]};
    u32 y = b[g * 4 + t];
    float d[4] = {c[g * 8 + t * 2], c[g * 8 + t * 2 + 1], c[(g + 8) * 8 + t * 2], c[(g + 8) * 8 + t * 2 + 1]};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(x[0]), "r"(x[1]), "r"(y));
    c[g * 8 + t * 2] = d[0]; c[g * 8 + t * 2 + 1] = d[1];
    c[(g + 8) * 8 + t * 2] = d[2]; c[(g + 8) * 8 + t * 2 + 1] = d[3];
    __nv_bfloat162 low = __floats2bfloat162_rn(d[0], d[1]), high = __floats2bfloat162_rn(d[2], d[3]);
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1,%2};"
        :: "r"(shared_address(&tile[LANE & 15][0])), "r"(*(u32*)&low), "r"(*(u32*)&high) : "memory");
    __syncwarp();
    for (int k = LANE; k < 128; k += 32) out[k] = tile[k >> 3][k & 7];
}
