# SPDX-License-Identifier: GPL-2.0-only
#
# Judges the KTAP of KUnit in a kernel log, as tap.awk does for programs: a test is
# a line at four blanks; what is deeper are its parameters.

function report(	i, sum) {
	sum = passed + failed + skipped
	if (unfinished || sum != planned) {
		failed++
		lines[++nr_lines] = "  FAILED: " sum " of " planned " results" \
			(unfinished ? ", the log ends in the middle" : "")
	}
	printf "kunit: %s: %d passed, %d failed, %d skipped\n", suite, passed, failed, skipped
	for (i = 1; i <= nr_lines; i++)
		print lines[i]
	print passed, failed, skipped >>results
	suites++
	suite = ""
}

function name_of(line) {
	sub(/^ *(not )?ok [0-9]+ (- )?/, "", line)
	return line
}

{ sub(/^(<[0-9]+>)?\[ *[0-9]+\.[0-9]+\](\[[^]]*\])? /, "") }

/^    # Subtest: / {
	if (suite != "")
		report()
	suite = $3
	planned = passed = failed = skipped = nr_lines = nr_notes = 0
	next
}
suite == "" { next }
/^    1\.\.[0-9]+/ { planned = substr($1, 4) + 0; next }
/^    ok [0-9]+ .*# SKIP/ {
	skipped++
	sub(/ *# SKIP */, ": ")
	lines[++nr_lines] = "  skipped: " name_of($0)
	nr_notes = 0
	next
}
/^    ok [0-9]+ / { passed++; nr_notes = 0; next }
/^    not ok [0-9]+ / {
	failed++
	lines[++nr_lines] = "  FAILED: " name_of($0)
	for (i = 1; i <= nr_notes; i++)
		lines[++nr_lines] = "    | " notes[i]
	nr_notes = 0
	next
}
/^(not )?ok [0-9]+ / { report(); next }
/^    / { notes[++nr_notes] = $0 }

END {
	if (suite != "") {
		unfinished = 1
		report()
	}
	if (!suites) {
		print "kunit: FAILED: no suite ran"
		print 0, 1, 0 >>results
	}
}
