# -DLATENTWIRE_SANITIZE=address,undefined or =thread instruments every target of this build (GCC or Clang).
set(LATENTWIRE_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread")

function(latentwire_sanitize target)
  if(LATENTWIRE_SANITIZE)
    target_link_options(${target} PRIVATE -fsanitize=${LATENTWIRE_SANITIZE})
    if(target STREQUAL "latentwire-tests" AND NOT LATENTWIRE_SANITIZE STREQUAL "thread")
      # What is tested is instrumented, and so is the heap; tests alone are a third of what there is to compile.
      target_compile_options(${target} PRIVATE -O1)
      return()
    endif()
    target_compile_options(${target} PRIVATE -fsanitize=${LATENTWIRE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1)
    if(LATENTWIRE_SANITIZE MATCHES "undefined")
      if(target MATCHES "^latentwire_")
        # without what a memory error or a crash tells as well, and what would be most of the checks, and of the time to compile them
        target_compile_options(${target} PRIVATE -fno-sanitize=null,object-size,vptr,nonnull-attribute,returns-nonnull-attribute)
      else()
        # the rooms have the arithmetic; in the glue around them these checks double the time to compile and find nothing
        target_compile_options(${target} PRIVATE -fno-sanitize=undefined)
      endif()
    endif()
  endif()
endfunction()

# What is nearly all Eigen, which is not ours, would take minutes to compile with checks of every addition.
if(LATENTWIRE_SANITIZE MATCHES "undefined")
  set_source_files_properties(native/fit/decompose.cpp native/fit/procrustes.cpp native/fit/gcca.cpp native/fit/logistic.cpp native/fit/ridge.cpp
    PROPERTIES COMPILE_OPTIONS -fno-sanitize=undefined)
endif()
