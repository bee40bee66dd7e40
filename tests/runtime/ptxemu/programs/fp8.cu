// Conversions to and from 8-bit floats (sm_89).
#include <cuda_fp16.h>
#include <cuda_fp8.h>
extern "C" __global__ void fp8(const float2* x, unsigned short* codes, __half2* back) {
    int i = threadIdx.x, n = blockDim.x;
    float2 v = x[i];
    codes[i] = __nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, __NV_E4M3);
    codes[i + n] = __nv_cvt_float2_to_fp8x2(v, __NV_SATFINITE, __NV_E5M2);
    codes[i + 2 * n] = __nv_cvt_halfraw2_to_fp8x2(__half2_raw(__float22half2_rn(v)), __NV_SATFINITE, __NV_E4M3);
    back[i] = __half2(__nv_cvt_fp8x2_to_halfraw2(codes[i], __NV_E4M3));
    back[i + n] = __half2(__nv_cvt_fp8x2_to_halfraw2(codes[i + n], __NV_E5M2));
}
