#!/usr/bin/env bash
# Builds and tests the C++ runtime twice: under AddressSanitizer and UndefinedBehaviorSanitizer, then optimised.
# Needs g++, and the Python of `make venv` first on PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v g++ >/dev/null || { echo "the C++ runtime needs g++ (Debian: apt-get install g++)" >&2; exit 1; }
for tool in cmake ninja; do
  command -v "$tool" >/dev/null || python -m pip --disable-pip-version-check -qq install -c constraints.txt "$tool"
done
python runtime/scripts/fetch_onnxruntime.py build/onnxruntime

build() {  # directory, options of cmake
  cmake -S runtime -B "$1" -G Ninja -DORT_ROOT="$PWD/build/onnxruntime" -DDIPGO_TESTS=ON -DDIPGO_WERROR=ON "${@:2}" >/dev/null
  cmake --build "$1"
  ctest --test-dir "$1" --output-on-failure
}

build build/cpp-sanitized -DCMAKE_BUILD_TYPE=Debug -DDIPGO_SANITIZE=ON -DDIPGO_FUZZ=ON
build build/cpp-release -DCMAKE_BUILD_TYPE=Release

# Python is not built with the sanitizers, so their library comes first; it never frees everything itself either.
preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)"
echo "tests/cpp with the sanitized build"
DIPGO_CPP_BUILD=build/cpp-sanitized LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0 \
  python -m pytest tests/cpp -q --capture=sys
echo "tests/cpp with the released build"
DIPGO_CPP_BUILD=build/cpp-release python -m pytest tests/cpp -q --capture=sys
