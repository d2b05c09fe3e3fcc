# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of scripts/check.d/static: how our files are written.

shell_scripts()
{
	find "$TOP/scripts" "$TOP/.ci" -type f ! -name '*~' -print0 |
		xargs -0 awk 'FNR == 1 && /^#!.*(ba)?sh( |$)/ { print FILENAME } { nextfile }'
	find "$TOP/scripts" -maxdepth 2 -name '*.sh' ! -perm -u+x
}

check_scripts()
{
	local out files

	if ! command -v shellcheck >/dev/null; then
		skipped "shell scripts" "no shellcheck here"
		return
	fi
	mapfile -t files < <(shell_scripts | sort -u)
	if out=$(cd "$TOP" && shellcheck -x "${files[@]/#"$TOP/"/}" 2>&1); then
		passed "${#files[@]} shell scripts, shellcheck"
	else
		failed "shellcheck" <<<"$out"
	fi
}

# ours PATTERN...: files of ours, as they are named in the kernel's tree.
ours()
{
	(cd "$TOP" && find "$@" -name '*.[ch]' | sort)
}

# Kinds of message that checkpatch.pl is not asked for, since it would be wrong.
#
# BIT_MACRO: what is a power of two here is a number of pages or bytes, not a bit.
# UNCOMMENTED_DEFINITION: what a lock guards is said in the kernel-doc of its
#   struct; a pointer to the lock of a page table is not a lock.
IGNORE_KERNEL=BIT_MACRO,UNCOMMENTED_DEFINITION
# Trace events are not laid out as functions are, see any of include/trace/events/.
IGNORE_EVENTS=OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
# In programs:
# COMPLEX_MACRO: FIXTURE_VARIANT_ADD() is a definition, no expression.
# MACRO_ARG_REUSE: ASSERT_*() must be in a macro to fail in the test's own line;
#   it is given plain variables.
# ENOSYS: here the system call really may be missing.
# VOLATILE: that is how a program touches memory, there is no READ_ONCE().
# ARCH_DEFINES: a program has no CONFIG_ to ask.
IGNORE_TESTS=BIT_MACRO,COMPLEX_MACRO,MACRO_ARG_REUSE,ENOSYS,VOLATILE,ARCH_DEFINES

# checkpatch IGNORE FILE...: fails if there is anything to say.
checkpatch()
{
	local ignore=$1

	shift
	cd "$TREE" && printf '%s\n' "$@" |
		in_parallel -n 4 perl scripts/checkpatch.pl --root=. --file --strict --terse \
			--show-types --no-summary --max-line-length=100 --ignore="$ignore" \
			--typedefsfile="$TOP/scripts/check.d/checkpatch.types"
}

check_patch_style()
{
	local log=$LOGS/check-checkpatch.log ended=0 kernel tests

	say "reading our C files with checkpatch.pl --strict ..."
	mapfile -t kernel < <(ours mm/ksm include/linux/ksm.h)
	mapfile -t tests < <(ours tools/testing/selftests/mm tools/mm/ksmstat)
	{
		(checkpatch "$IGNORE_KERNEL" "${kernel[@]}") || ended=$?
		(checkpatch "$IGNORE_EVENTS" include/trace/events/ksm.h) || ended=$?
		(checkpatch "$IGNORE_TESTS" "${tests[@]}") || ended=$?
	} >"$log" 2>&1 </dev/null
	if [ "$ended" -eq 0 ] && [ ! -s "$log" ]; then
		passed "$((${#kernel[@]} + 1 + ${#tests[@]})) C files, checkpatch.pl --strict"
	else
		failed "checkpatch.pl --strict; log: build/log/check-checkpatch.log" <"$log"
	fi
}

check_kernel_doc()
{
	local log=$LOGS/check-kernel-doc.log ended=0 files

	if ! command -v python3 >/dev/null; then
		skipped "kernel-doc" "no python3 here"
		return
	fi
	mapfile -t files < <(ours mm/ksm include/linux/ksm.h)
	(cd "$TREE" && python3 tools/docs/kernel-doc -none -Wall -Werror "${files[@]}") \
		>"$log" 2>&1 </dev/null || ended=$?
	if [ "$ended" -eq 0 ] && [ ! -s "$log" ]; then
		passed "comments of mm/ksm, kernel-doc -Wall"
	else
		sort -u "$log" | failed "kernel-doc; log: build/log/check-kernel-doc.log"
	fi
}

# The bugs of scripts/mutants must fit on what mm/ksm is now.
check_mutants()
{
	local log=$LOGS/check-mutants.log bad=0 mutant

	: >"$log"
	for mutant in "$TOP"/scripts/mutants.d/*.patch; do
		patch -d "$TOP" -p1 --fuzz=0 --batch --forward --dry-run <"$mutant" >>"$log" 2>&1 ||
			{ echo "${mutant##*/} does not fit" >>"$log"; bad=$((bad + 1)); }
	done
	if [ "$bad" -eq 0 ]; then
		passed "the bugs of scripts/mutants fit"
	else
		failed "bugs of scripts/mutants do not fit; log: build/log/check-mutants.log" <"$log"
	fi
}
