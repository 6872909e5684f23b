// Entry point of the C++ tests; the other files of this folder hold the cases.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
