# treadle_add_bundle(NAME MODEL cgspn:tiny TARGETS cpu [SEED 0 | WEIGHTS FILE] [OPTIONS --dim N=1..4 ...])
#
# A target NAME, part of ALL, that runs `treadle compile` once, and again when the weights change. The bundle is
# ${CMAKE_CURRENT_BINARY_DIR}/NAME.treadle; with several TARGETS there is one for each: NAME-cpu.treadle, NAME-cuda-sm_90a.treadle.
# The target's property TREADLE_BUNDLES lists them.
function(treadle_add_bundle name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "MODEL;SEED;WEIGHTS" "TARGETS;OPTIONS")
  if(NOT arg_MODEL OR NOT arg_TARGETS OR arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "treadle_add_bundle: expected NAME MODEL ... TARGETS ..., given ${ARGV}")
  endif()
  if(NOT TREADLE_PROGRAM)
    message(FATAL_ERROR "treadle_add_bundle: the treadle command is not found; run `pip install 'treadle[compiler]'`, "
                        "then pass -DTREADLE_PROGRAM=$(command -v treadle)")
  endif()
  set(options ${arg_OPTIONS})
  set(depends)
  if(DEFINED arg_SEED)
    list(APPEND options --seed ${arg_SEED})
  endif()
  if(arg_WEIGHTS)
    get_filename_component(weights "${arg_WEIGHTS}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    list(APPEND options --weights "${weights}")
    set(depends "${weights}")
  endif()
  list(LENGTH arg_TARGETS count)
  set(bundles)
  set(stamps)
  foreach(target IN LISTS arg_TARGETS)
    set(bundle "${CMAKE_CURRENT_BINARY_DIR}/${name}.treadle")
    if(count GREATER 1)
      string(REGEX REPLACE "[^A-Za-z0-9_-]" "-" suffix "${target}")
      set(bundle "${CMAKE_CURRENT_BINARY_DIR}/${name}-${suffix}.treadle")
    endif()
    # The last file that the compiler writes.
    add_custom_command(
      OUTPUT "${bundle}/SHA256SUMS"
      COMMAND "${TREADLE_PROGRAM}" compile "${arg_MODEL}" --target "${target}" ${options} -o "${bundle}"
      DEPENDS ${depends}
      COMMENT "treadle compile ${arg_MODEL} --target ${target}"
      VERBATIM)
    list(APPEND bundles "${bundle}")
    list(APPEND stamps "${bundle}/SHA256SUMS")
  endforeach()
  add_custom_target(${name} ALL DEPENDS ${stamps})
  set_target_properties(${name} PROPERTIES TREADLE_BUNDLES "${bundles}")
endfunction()
