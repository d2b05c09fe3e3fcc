# SPDX-License-Identifier: GPL-2.0-only
#
# Judges what the test programs in a virtual machine printed (TAP, between the
# lines of scripts/check.d/guest). Prints a line for each program, each skip with
# its reason, each failure with its lines. Adds "passed failed skipped" of each
# program to the file -v results=FILE; -v machine=NAME names the machine.

function tell(text) {
	lines[++nr_lines] = "  " text
}

function fail(what,	i) {
	failed++
	tell("FAILED: " what)
	for (i = 1; i <= nr_notes; i++)
		tell("  | " notes[i])
}

function begin(name) {
	program = name
	planned = -1
	running = ""
	passed = failed = skipped = nr_notes = nr_lines = 0
}

function end(status,	i, sum) {
	sum = passed + failed + skipped
	if (planned < 0)
		fail("it printed no plan; exit status " status)
	else if (sum < planned)
		fail((planned - sum) " of " planned " results are missing, the last test was '" \
		     running "'; exit status " status)
	else if (sum > planned)
		fail(sum " results, but " planned " were planned")
	else if (planned == 0)
		fail("no test ran")
	else if (status != "0" && status != "4" && !failed)
		fail("all results are good, but its exit status is " status)
	printf "%s: %s: %d passed, %d failed, %d skipped\n", machine, program, \
		passed, failed, skipped
	for (i = 1; i <= nr_lines; i++)
		print lines[i]
	fflush()
	print passed, failed, skipped >>results
	fflush(results)
	program = ""
}

# "ok 3 name # SKIP reason" without its first words.
function name_of(line) {
	sub(/^(not )?ok [0-9]+ (- )?/, "", line)
	return line
}

/^### BEGIN / {
	if (program != "") {
		fail("how '" program "' ended was not told")
		end("unknown")
	}
	begin($3)
	next
}
program == "" { if ($0 !~ /^VM-EXIT: /) print machine ": " $0; next }
/^### END / { end($4); next }
/^1\.\.[0-9]+/ { planned = substr($1, 4) + 0; next }
/^# +RUN +/ { running = $3; nr_notes = 0; next }
/^ok [0-9]+ .*# SKIP/ {
	skipped++
	sub(/ *# SKIP */, ": ")
	tell("skipped: " name_of($0))
	nr_notes = 0
	next
}
/^ok [0-9]+ / { passed++; nr_notes = 0; next }
/^not ok [0-9]+ / { fail(name_of($0)); nr_notes = 0; next }
/^TAP version|^# +(OK|FAIL|SKIP) / { next }
{ notes[++nr_notes] = $0 }

END {
	if (program != "") {
		fail("the machine stopped in the middle of '" running "'")
		end("unknown")
	}
}
