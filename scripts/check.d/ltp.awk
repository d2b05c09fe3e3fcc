# SPDX-License-Identifier: GPL-2.0-only
#
# Compares what tests of the Linux Test Project said in two kernels. Reads the entries that
# were to run (kernel=rows) and what scripts/check.d/ltp-guest printed in each kernel
# (kernel=base, kernel=ours). Prints a table and, below an entry, what differs. Adds one
# line, "passed failed skipped", to the file -v results=FILE.
#
# An entry fails with a TFAIL, a TBROK, a bad exit status or no end; it is skipped with a
# TCONF and no TPASS. Ours is worse where the base kernel fares better, fails less or
# skips less. An entry that the base kernel does not pass either counts as skipped. Of an
# entry that ran again, as it had failed, the last run counts.


function take_result(what) {
	count[kernel, row, what]++
	if (what != "TPASS" && text[kernel, row, what] == "")
		text[kernel, row, what] = $0
}

# What was found up to now is of a run that failed: it does not count, but is told.
function run_again(	at, parts) {
	row = last_row
	retries[kernel, row]++
	for (at in count) {
		split(at, parts, SUBSEP)
		if (parts[1] == kernel && parts[2] == row) {
			delete count[at]
			delete text[at]
		}
	}
}

function failures(kernel, row) {
	return count[kernel, row, "TFAIL"] + count[kernel, row, "TBROK"]
}

# A status is made of 1 TFAIL, 2 TBROK, 4 TWARN, 32 TCONF.
function state(kernel, row,	status) {
	if (!((kernel, row) in status_of))
		return "none"
	status = status_of[kernel, row]
	if (failures(kernel, row) || status % 4 || status > 36)
		return "fail"
	return count[kernel, row, "TPASS"] ? "pass" : "skip"
}

function is_worse(row, base, ours) {
	if (ours == "none" || base == "pass" && ours != "pass" || base == "skip" && ours == "fail")
		return 1
	if (base == "fail" && ours == "fail")
		return failures("ours", row) > failures("base", row)
	return base == "pass" && (count["ours", row, "TCONF"] > count["base", row, "TCONF"] ||
				  count["ours", row, "TPASS"] < count["base", row, "TPASS"])
}

function column(kernel, row) {
	if (!((kernel, row) in status_of))
		return sprintf("%29s", "did not end")
	return sprintf("%5d %5d %5d %5d %5d", count[kernel, row, "TPASS"], \
		count[kernel, row, "TFAIL"], count[kernel, row, "TBROK"], \
		count[kernel, row, "TCONF"], seconds_of[kernel, row])
}

function tell_text(kernel, row, what) {
	if (text[kernel, row, what] != "")
		print "    " kernel ": " text[kernel, row, what]
}

# Why an entry does not pass: the first line of each kind, of ours alone where both agree.
function tell(row, worse) {
	if (worse || state("base", row) != state("ours", row)) {
		tell_text("base", row, "TFAIL")
		tell_text("base", row, "TBROK")
		tell_text("base", row, "TCONF")
	}
	tell_text("ours", row, "TFAIL")
	tell_text("ours", row, "TBROK")
	if (!count["ours", row, "TPASS"] || worse)
		tell_text("ours", row, "TCONF")
}

function tell_retries(kernel, row) {
	if (retries[kernel, row])
		print "    " kernel ": failed before: " retries[kernel, row] " of " \
			retries[kernel, row] + 1 " tries"
}

function report(row,	base, ours, worse) {
	base = state("base", row)
	ours = state("ours", row)
	worse = is_worse(row, base, ours)
	printf "%-18s %s  %s  %s\n", row, column("base", row), column("ours", row), \
		worse ? "WORSE" : ours != "pass" ? ours : base != "pass" ? "better" : "same"
	tell(row, worse)
	tell_retries("base", row)
	tell_retries("ours", row)
	if (worse) {
		print "    FAILED: " row ": " base " in the base kernel, " ours " in ours"
		failed++
	} else if (ours == "pass") {
		passed++
	} else {
		skipped++
	}
}

kernel == "rows" { rows[++nr_rows] = $1; next }
/^### AGAIN/ { run_again(); again = 1; next }
/^### BEGIN / { if (!again) row = $3; again = 0; next }
row == "" { next }
/^### END / {
	status_of[kernel, row] = $3
	seconds_of[kernel, row] += $4
	last_row = row
	row = ""
	next
}
match($0, /(: |  )T(PASS|FAIL|BROK|CONF|WARN)(: |  :)/) {
	take_result(substr($0, RSTART + 2, 5))
}

END {
	printf "%-18s %s  %s\n", "", "----------- base ------------", "----------- ours ------------"
	printf "%-18s  pass  fail  brok  conf  secs   pass  fail  brok  conf  secs  verdict\n", "entry"
	for (i = 1; i <= nr_rows; i++)
		report(rows[i])
	printf "ltp: %d entries pass in our kernel; in %d ours is worse; %d are passed by neither\n", \
		passed, failed, skipped
	print passed + 0, failed + 0, skipped + 0 >>results
}
