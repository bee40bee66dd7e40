// Rounding, subnormals, NaN.
extern "C" __global__ void float_corners(const float* a, const float* b, const float* c, float* out,
                                         double* wide) {
    int i = threadIdx.x, n = blockDim.x;
    float x = a[i], y = b[i], z = c[i];
    float* o = out + i;
    o[0 * n] = __fmaf_rn(x, y, z);
    o[1 * n] = __fmaf_rz(x, y, z);
    o[2 * n] = __fmaf_ru(x, y, z);
    o[3 * n] = __fmaf_rd(x, y, z);
    o[4 * n] = __fadd_rz(x, y);
    o[5 * n] = __fadd_ru(x, z);
    o[6 * n] = __fmul_rd(x, y);
    o[7 * n] = __fdiv_rn(x, y);
    o[8 * n] = __fdiv_rz(x, y);
    o[9 * n] = __fsqrt_ru(fabsf(x));
    o[10 * n] = __frcp_rd(y);
    o[11 * n] = fminf(x, y);
    o[12 * n] = fmaxf(x, z);
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(o[13 * n]) : "f"(x), "f"(y));
    asm("mul.ftz.f32 %0, %1, %2;" : "=f"(o[14 * n]) : "f"(x), "f"(y));
    asm("add.ftz.sat.f32 %0, %1, %2;" : "=f"(o[15 * n]) : "f"(x), "f"(y));
    o[16 * n] = (float)__float2int_rn(x) + __float2uint_ru(y);
    o[17 * n] = rintf(x) + truncf(y) * 2 + floorf(z) * 4 + ceilf(x) * 8;
    o[18 * n] = __uint2float_rz(__float_as_uint(x)) - __int2float_ru(__float_as_int(y));
    o[19 * n] = copysignf(x, y) + (isfinite(z) ? 1.0f : 2.0f);
    o[20 * n] = (x < y) + 2 * (x != y) + 4 * !(x >= z) + 8 * isnan(x);
    double* w = wide + i;
    w[0 * n] = fma((double)x, (double)y * 1.1, (double)z * 1e-9);
    w[1 * n] = __dadd_rz((double)x, (double)y * 1e-10);
    w[2 * n] = (double)x / ((double)y * 3.0);
    w[3 * n] = sqrt(fabs((double)z) * 7.0);
    w[4 * n] = (double)__double2float_rd((double)x * 1.1) + __double2int_rd((double)z * 0.3);
}
