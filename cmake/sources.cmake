# Reads native/sources.gypi, the list of sources and flags that CMake and GYP share. The file is written in strict JSON (no comments,
# no trailing commas), which GYP accepts as a Python literal.
file(READ "${CMAKE_CURRENT_SOURCE_DIR}/native/sources.gypi" LATENTWIRE_SOURCES_JSON)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/native/sources.gypi")

# latentwire_list(<variable> <name>): sets <variable> to the list variables.<name> of native/sources.gypi.
function(latentwire_list variable name)
  string(JSON count LENGTH "${LATENTWIRE_SOURCES_JSON}" variables ${name})
  set(items "")
  if(count GREATER 0)
    math(EXPR last "${count} - 1")
    foreach(index RANGE ${last})
      string(JSON item GET "${LATENTWIRE_SOURCES_JSON}" variables ${name} ${index})
      list(APPEND items "${item}")
    endforeach()
  endif()
  set(${variable} "${items}" PARENT_SCOPE)
endfunction()
