# SPDX-License-Identifier: GPL-2.0-only
#
# Compares what the base tree's selftests did in two kernels. Reads the rows that were
# to run (kernel=rows) and what scripts/check.d/base-guest printed in each kernel
# (kernel=base, kernel=ours). Prints a table and, below a row, what differs. Adds
# "passed failed skipped" of each row to the file -v results=FILE.
#
# A thing is a result of TAP, known by its number, as a skipped one often has no name;
# a program without TAP is one thing, its exit status. An expected failure counts as
# skipped. What passes in the base kernel has failed if it does not pass in ours; what
# passes in neither shows nothing and counts as skipped. Of a program that ran again, as
# it had failed, the last run counts; the table tells what became of the others.

# Rows may occur more than once: the second "rmap" is "rmap (2)".
function unique(kernel, row) {
	return ++seen[kernel, row] == 1 ? row : row " (" seen[kernel, row] ")"
}

function set_result(number, result, text,	at) {
	at = kernel SUBSEP row SUBSEP number
	# Two processes may have printed the same one: the worse counts.
	if ((at in state_of) && (state_of[at] == "fail" || result == "pass"))
		return
	state_of[at] = result
	text_of[at] = text
	notes_of[at] = notes
	notes = ""
	if (number > planned[row])
		planned[row] = number
}

function read_result(line,	number, failed) {
	failed = line ~ /^not /
	sub(/^(not )?ok /, "", line)
	number = line + 0
	sub(/^[0-9]+ (- )?/, "", line)
	if (failed)
		set_result(number, "fail", line)
	else if (line ~ /# (SKIP|XFAIL)/)
		set_result(number, "skip", line)
	else
		set_result(number, "pass", line)
}

# What was found up to now is of a run that failed: it does not count, but is told.
function run_again(	at, parts) {
	row = last_row
	again = 1
	retries[row, kernel]++
	for (at in state_of) {
		split(at, parts, SUBSEP)
		if (parts[1] == kernel && parts[2] == row)
			delete state_of[at]
	}
}

function tell_retries(row, kernel) {
	if (retries[row, kernel])
		print "    " kernel ": failed before: " retries[row, kernel] " of " retries[row, kernel] + 1 " tries"
}

# The program as a whole, where it printed no results.
function exit_state(kernel, row,	status) {
	if (!((kernel, row) in status_of))
		return "none"
	status = status_of[kernel, row]
	return status == 0 ? "pass" : status == 4 ? "skip" : "fail"
}

function state(kernel, row, number) {
	if (planned[row] == 0)
		return exit_state(kernel, row)
	return ((kernel, row, number) in state_of) ? state_of[kernel, row, number] : "none"
}

function tell(text) {
	lines[++nr_lines] = text
}

# What is known of result NUMBER in a kernel, for a line of text.
function describe(kernel, row, number,	text) {
	text = text_of[kernel, row, number]
	return text == "" ? "" : " (" text ")"
}

# What the base kernel passes and ours does not. Of a program that stopped early, the
# missing results are told at once (tell_missing), and of many only the first 20.
function tell_worse(row, number,	nr, i, parts) {
	if (state("ours", row, number) == "none") {
		if (missing++ == 0)
			first_missing = number
		return
	}
	if (++told > 20)
		return
	tell("FAILED: " row ": result " number ": base pass" describe("base", row, number) \
	     ", ours " state("ours", row, number) describe("ours", row, number))
	nr = split(notes_of["ours", row, number], parts, "\n")
	for (i = nr > 10 ? nr - 10 : 1; i < nr; i++)
		tell("  | " parts[i])
}

function tell_missing(row) {
	if (told > 20)
		tell("FAILED: " row ": " (told - 20) " more")
	if (missing)
		tell("FAILED: " row ": " missing " results of base are missing in ours, the first: " \
		     first_missing describe("base", row, first_missing))
}

# Results that pass in neither kernel are told once for each pair of states.
function tell_unproven(row, number,	pair) {
	pair = "base " state("base", row, number) ", ours " state("ours", row, number)
	if (unproven[pair]++ == 0)
		first_unproven[pair] = text_of["base", row, number]
}

function judge_things(row,	last, i, base, ours) {
	last = planned[row] ? planned[row] : 1
	for (i = 1; i <= last; i++) {
		base = state("base", row, i)
		ours = state("ours", row, i)
		count["base", base]++
		count["ours", ours]++
		if (ours == "pass") {
			passed++
			better += base != "pass"
		} else if (base == "pass") {
			failed++
			tell_worse(row, i)
		} else {
			skipped++
			tell_unproven(row, i)
		}
	}
	tell_missing(row)
}

# All results good and yet a bad end, where the base kernel has a good one.
function judge_exit(row,	base) {
	base = exit_state("base", row)
	if (failed || (base != "pass" && base != "skip"))
		return
	if (exit_state("ours", row) == "fail" || exit_state("ours", row) == "none") {
		failed++
		tell("FAILED: " row ": exit status " status_of["base", row] " in base, " \
		     status_of["ours", row] " in ours")
	}
}

function column(kernel, row) {
	if (!((kernel, row) in status_of))
		return sprintf("%26s", "did not end")
	return sprintf("%5d %4d %4d %4d %5d", count[kernel, "pass"], count[kernel, "fail"], \
		count[kernel, "skip"], status_of[kernel, row], seconds_of[kernel, row])
}

function verdict() {
	return failed ? "WORSE" : better ? "better" : passed ? "same" : "unproven"
}

function report(row,	words, mode, i, pair) {
	passed = failed = skipped = better = nr_lines = told = missing = 0
	split("", count)
	split("", unproven)
	judge_things(row)
	judge_exit(row)
	split(row, words, " ")
	mode = substr(row, length(words[1]) + 2)
	printf "%-21s %-25s %s  %s  %s\n", words[1], mode, column("base", row), \
		column("ours", row), verdict()
	for (pair in unproven)
		print "    " pair ": " unproven[pair] \
			(first_unproven[pair] == "" ? "" : ", the first: " first_unproven[pair])
	for (i = 1; i <= nr_lines; i++)
		print "    " lines[i]
	tell_retries(row, "base")
	tell_retries(row, "ours")
	print passed, failed, skipped >>results
	total_passed += passed
	total_failed += failed
	total_skipped += skipped
}

kernel == "rows" { sub(/^[0-9]+ [0-9]+ /, ""); rows[++nr_rows] = unique("rows", $0); next }
/^### AGAIN/ { run_again(); next }
/^### BEGIN / {
	if (!again)
		row = unique(kernel, substr($0, 11))
	again = 0
	notes = ""
	next
}
row == "" { next }
/^### END / {
	status_of[kernel, row] = $3
	seconds_of[kernel, row] += $4
	last_row = row
	row = ""
	next
}
/^1\.\.[0-9]+/ {
	if (substr($1, 4) + 0 > planned[row])
		planned[row] = substr($1, 4) + 0
	next
}
/^(not )?ok [0-9]+/ { read_result($0); next }
/^TAP version|^# Totals|^ *$/ { next }
{ notes = notes $0 "\n" }

END {
	printf "%-21s %-25s %s  %s\n", "", "", "--------- base -----------", "--------- ours -----------"
	printf "%-21s %-25s  pass fail skip exit  secs   pass fail skip exit  secs  verdict\n", \
		"program", "mode"
	for (i = 1; i <= nr_rows; i++)
		report(rows[i])
	printf "base-tests: %d pass in our kernel; %d pass in the base kernel only; %d in neither\n", \
		total_passed, total_failed, total_skipped
}
