# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Part of scripts/check.d/static: programs that look for bugs in our kernel code.
# There is no smatch in Debian.

# sparse reads what gcc has compiled for check_warnings. It does not know
# __typeof_unqual__ before version 0.6.5, and the kernel would not use it then.
check_sparse()
{
	local log=$LOGS/check-sparse.log found

	if ! command -v sparse >/dev/null; then
		skipped "sparse" "no sparse here"
		return
	fi
	say "reading mm/ksm with sparse ..."
	found=$(findings "$BUILD/check-w1" "$log" W=1 C=2 \
		CHECK="sparse -D__typeof_unqual__=__typeof__")
	if grep -q "$UNFIT" "$log"; then
		skipped "sparse" "the kernel's make refuses this version; log: build/log/check-sparse.log"
	elif [ -z "$found" ]; then
		passed "mm/ksm, sparse"
	else
		failed "sparse; log: build/log/check-sparse.log" <<<"$found"
	fi
}

# --- Coccinelle --------------------------------------------------------------

# Those that can report, but for two that need a compiler of OCaml: badzero.cocci
# (sparse finds the same) and check_bq27xxx_data.cocci (of one driver).
cocci_scripts()
{
	cd "$TREE" && grep -rlE --include='*.cocci' '^virtual[[:space:]]+report' scripts/coccinelle |
		xargs grep -LE '(script|initialize):ocaml' | sort
}

# run_spatch SCRIPT: on all of mm/ksm; one of our macros is not known to spatch.
run_spatch()
{
	local options

	options=$(sed -n 's|^// *Options:||p' "$1")
	# shellcheck disable=SC2086 # options are words
	spatch -D report --no-show-diff --very-quiet --macro-file "$COCCI_MACROS" \
		--cocci-file "$1" $options -I include -I arch/x86/include \
		mm/ksm/*.[ch] mm/ksm/tests/*.[ch] || echo "$1: spatch failed with status $?"
}

check_coccinelle()
{
	local log=$LOGS/check-coccinelle.log scripts found

	if ! command -v spatch >/dev/null; then
		skipped "Coccinelle" "no spatch here"
		return
	fi
	mapfile -t scripts < <(cocci_scripts)
	say "reading mm/ksm with ${#scripts[@]} of Coccinelle's scripts ..."
	export COCCI_MACROS=$TOP/scripts/check.d/coccinelle.h
	export -f run_spatch
	(cd "$TREE" && printf '%s\n' "${scripts[@]}" |
		in_parallel -I '{}' bash -c 'run_spatch {}') >"$log" 2>&1 </dev/null || true
	# The rest is what spatch has to say about the scripts.
	found=$(grep -aE '^mm/ksm/|spatch failed|rror' "$log" | sort -u || true)
	if [ ${#scripts[@]} -gt 0 ] && [ -z "$found" ]; then
		passed "mm/ksm, ${#scripts[@]} scripts of Coccinelle"
	else
		failed "Coccinelle; log: build/log/check-coccinelle.log" <<<"$found"
	fi
}

# --- clang -------------------------------------------------------------------

# find_clang OLDEST: prints the name of one that can compile this kernel.
find_clang()
{
	local cc

	for cc in clang-19 clang-20 clang-21 clang-22 clang; do
		command -v "$cc" >/dev/null || continue
		printf '%s\n' "$1" "$("$cc" -dumpversion)" | sort -CV || continue
		printf '%s\n' "$cc"
		return
	done
	return 1
}

# clang warns of other things than gcc. Its analyzer takes the place of the
# checker in the kernel's make, and so looks at what is compiled (C=1) with the same
# options.
check_clang()
{
	local oldest compiler found out=$BUILD/check-clang log=$LOGS/check-clang.log

	oldest=$("$TREE/scripts/min-tool-version.sh" llvm)
	if ! compiler=$(find_clang "$oldest"); then
		skipped "clang's analyzer" "no clang from version $oldest on here"
		return
	fi
	say "compiling mm/ksm with $compiler and its analyzer ..."
	found=$(findings "$out" "$log" C=1 CHECK="$compiler" \
		CHECKFLAGS="--analyze --analyzer-output text -Qunused-arguments")
	# Objects that are up to date would not be looked at again.
	[ -z "$found" ] || rm -rf "$out/mm/ksm"
	if [ -z "$found" ]; then
		passed "mm/ksm, $compiler and its analyzer"
	else
		failed "$compiler; log: build/log/check-clang.log" <<<"$found"
	fi
}

# --- models --------------------------------------------------------------------

# model_errors OPTION...: how many mistakes spin finds in the model of a node's folio.
model_errors()
{
	local dir=$BUILD/model

	mkdir -p "$dir" && cd "$dir" &&
		spin "$@" -a "$TOP/scripts/check.d/stable-folio.pml" >&2 &&
		gcc -O2 -w -o pan pan.c &&
		./pan -m100000 | tee /dev/stderr | sed -n 's/.*errors: //p'
}

# A protocol that is known to be wrong shows that spin would find that.
check_model()
{
	local log=$LOGS/check-model.log right wrong

	if ! command -v spin >/dev/null; then
		skipped "model of a node's folio" "no spin here"
		return
	fi
	say "checking the model of a node's folio with spin ..."
	right=$( (model_errors) 2>"$log") || true
	wrong=$( (model_errors -DLOCKLESS) 2>>"$log") || true
	if [ "$right" = 0 ] && [ "$wrong" = 1 ]; then
		passed "model of a node's folio, spin"
	else
		failed "model of a node's folio: errors $right, without a lock $wrong; log: build/log/check-model.log" <"$log"
	fi
}
