// Elementary functions over a vector type V, accurate to a few units in the last place of f32. NaN stays NaN: V::min and V::max give their
// second operand when one is NaN.
#pragma once

namespace latentwire {

// exp(x), by 2^n * exp(r) with |r| <= ln(2) / 2 and a polynomial of degree 6. Below -87.3 it is 0 and above 88.7 infinity.
template <class V>
inline typename V::F exp_of(typename V::F x) noexcept {
  using F = typename V::F;
  const F clamped = V::min(V::set(104.0F), V::max(V::set(-104.0F), x));
  const F n = V::round(V::mul(clamped, V::set(1.44269504088896341F)));
  F r = V::fma(n, V::set(-0.693359375F), clamped);
  r = V::fma(n, V::set(2.12194440e-4F), r);
  F p = V::set(1.0F / 720);
  p = V::fma(p, r, V::set(1.0F / 120));
  p = V::fma(p, r, V::set(1.0F / 24));
  p = V::fma(p, r, V::set(1.0F / 6));
  p = V::fma(p, r, V::set(0.5F));
  p = V::fma(p, r, V::set(1.0F));
  p = V::fma(p, r, V::set(1.0F));
  return V::scale(p, n);
}

// tanh(x): odd polynomial near 0, where 1 - 2 / (exp(2x) + 1) cancels.
template <class V>
inline typename V::F tanh_of(typename V::F x) noexcept {
  using F = typename V::F;
  const F magnitude = V::abs(x);
  const F s = V::mul(x, x);
  F p = V::set(-5.70498872745e-3F);
  p = V::fma(p, s, V::set(2.06390887954e-2F));
  p = V::fma(p, s, V::set(-5.37397155531e-2F));
  p = V::fma(p, s, V::set(1.33314422036e-1F));
  p = V::fma(p, s, V::set(-3.33332819422e-1F));
  const F small = V::fma(V::mul(p, s), x, x);
  const F e = exp_of<V>(V::add(magnitude, magnitude));
  const F large = V::copy_sign(V::sub(V::set(1.0F), V::div(V::set(2.0F), V::add(e, V::set(1.0F)))), x);
  return V::select(V::less(magnitude, V::set(0.625F)), small, large);
}

// erf(x) by a rational function of x on |x| < 4, where it reaches 1 (the fit that Eigen and XLA use).
template <class V>
inline typename V::F erf_of(typename V::F x) noexcept {
  using F = typename V::F;
  const F c = V::min(V::set(4.0F), V::max(V::set(-4.0F), x));
  const F s = V::mul(c, c);
  F p = V::set(-2.72614225801306e-10F);
  p = V::fma(p, s, V::set(2.77068142495902e-08F));
  p = V::fma(p, s, V::set(-2.10102402082508e-06F));
  p = V::fma(p, s, V::set(-5.69250639462346e-05F));
  p = V::fma(p, s, V::set(-7.34990630326855e-04F));
  p = V::fma(p, s, V::set(-2.95459980854025e-03F));
  p = V::fma(p, s, V::set(-1.60960333262415e-02F));
  F q = V::set(-1.45660718464996e-05F);
  q = V::fma(q, s, V::set(-2.13374055278905e-04F));
  q = V::fma(q, s, V::set(-1.68282697438203e-03F));
  q = V::fma(q, s, V::set(-7.37332916720468e-03F));
  q = V::fma(q, s, V::set(-1.42647390514189e-02F));
  return V::div(V::mul(c, p), q);
}

}  // namespace latentwire
