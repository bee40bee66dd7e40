// tf32 k4 and k8, and the 8x8x4 product of doubles.
#include "gemm.h"
extern "C" __global__ void gemm_tf32(const float* a, const float* b, float* c, double* e) {
    int g = LANE >> 2, t = LANE & 3;
    u32 x[4], y[2];
    for (int k = 0; k < 4; k++)
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(x[k]) : "f"(a[(g + (k & 1) * 8) * 8 + t + (k >> 1) * 4]));
    for (int k = 0; k < 2; k++)
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y[k]) : "f"(b[(t + k * 4) * 8 + g]));
    float d[2][4] = {};
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3])
        : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
    asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]) : "r"(x[0]), "r"(x[1]), "r"(y[0]));
    for (int k = 0; k < 2; k++)
        for (int r = 0; r < 4; r++)
            c[k * 128 + (g + (r >> 1) * 8) * 8 + t * 2 + (r & 1)] = d[k][r];
    double w[2] = {1.0, -1.0};
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
        : "+d"(w[0]), "+d"(w[1]) : "d"((double)a[g * 8 + t]), "d"((double)b[t * 8 + g]));
    e[g * 8 + t * 2] = w[0]; e[g * 8 + t * 2 + 1] = w[1];
}
