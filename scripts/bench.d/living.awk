# SPDX-License-Identifier: GPL-2.0-only
# awk -f living.awk NAMES FILE: prints the figures of scripts/bench-living, base and ours
# side by side, in the order of NAMES.

BEGIN {
	FS = "[ ,]"
	slack = 0.03

	# What is no column of the first table.
	row("write_mean_us", "a turn of the application, mean, us")
	row("write_max_us", "a turn of the application, longest, us")
	row("swapped_in", "pages swapped in")
	row("exit_mean_us", "exit, mean, us")
	row("exit_max_us", "exit, longest, us")
	row("plain_exit_mean_us", "exit without KSM, mean, us")
	row("plain_exit_max_us", "exit without KSM, longest, us")
	row("exit_plain", "exit without KSM, instructions per page")
	row("exit_extra", "exit, more than that")
	row("exit_ksmd", "exit, what ksmd does then")
	row("unmerge_plain", "MADV_UNMERGEABLE without KSM")
	row("unmerge_extra", "MADV_UNMERGEABLE, more than that")
	row("unmerge_ksmd", "MADV_UNMERGEABLE, what ksmd does then")
	row("move_plain", "mremap without KSM")
	row("move_extra", "mremap, more than that")
	row("move_ksmd", "mremap, what ksmd does then")
}

function row(figure, text) {
	extra[++n_extra] = figure
	label[figure] = text
}

FNR == NR { sets[++n_sets] = $1; next }
/^#/ { next }
{ value[$2, $1, $3] = $4 }

END {
	title()
	for (n = 1; n <= n_sets; n++)
		if (known(sets[n], "merged"))
			line(sets[n])
	for (n = 1; n <= n_sets; n++)
		extras(sets[n])
	print "\nAll in virtual time: a second is a thousand million instructions. Merged: % of what could"
	print "be, on average; CPU: % of one, of ksmd. Both from when all is registered, and late: in the"
	print "second half of the time. Copies: of merged pages that were written to, per second. Half,"
	print "most: seconds until 50 % and 95 % of what can be merged was merged."
	if (n_worse)
		printf "%d of %d sets where ours is worse than the base by more than %d %%:%s\n",
		       n_worse, n_lines, slack * 100, worse_sets
}

function known(set, figure) {
	return (set, "base", figure) in value || (set, "ours", figure) in value
}

function title() {
	printf "\n%-22s %13s %13s %13s %13s %13s %13s %13s\n", "", "merged", "late", "CPU", "late",
	       "copies", "half", "most"
	printf "%-22s", "base, ours"
	for (i = 0; i < 7; i++)
		printf " %6s %6s", "base", "ours"
	printf "\n"
}

function shown(v) {
	if (v == "")
		return "-"
	if (v == 0 || v >= 1000)
		return sprintf("%.0f", v)
	return sprintf(v >= 100 ? "%.0f" : v >= 10 ? "%.1f" : v >= 0.995 ? "%.2f" : "%.3f", v)
}

function pair(set, figure) {
	return sprintf(" %6s %6s", shown(value[set, "base", figure]), shown(value[set, "ours", figure]))
}

function line(set,    text) {
	text = sprintf("%-22s", set) pair(set, "merged_percent") pair(set, "late_merged_percent") \
	       pair(set, "cpu_percent") pair(set, "late_cpu_percent") pair(set, "copies_per_s") \
	       pair(set, "half_s") pair(set, "most_s")
	print text verdict(set)
	n_lines++
}

function less(set, figure,    b, o) {
	b = value[set, "base", figure]
	o = value[set, "ours", figure]
	return b != "" && o != "" && o < b * (1 - slack)
}

function more(set, figure,    b, o) {
	b = value[set, "base", figure]
	o = value[set, "ours", figure]
	return b != "" && o != "" && o > b * (1 + slack)
}

function verdict(set,    text) {
	if (less(set, "merged"))
		text = text " merged"
	if (less(set, "late_merged"))
		text = text " late-merged"
	if (more(set, "cpu_percent"))
		text = text " CPU"
	if (more(set, "late_cpu_percent"))
		text = text " late-CPU"
	if (text == "")
		return ""
	n_worse++
	worse_sets = worse_sets " " set
	return "  WORSE:" text
}

function extras(set,    i, first) {
	for (i = 1; i <= n_extra; i++) {
		if (!known(set, extra[i]))
			continue
		if (!first++)
			printf "\n%-46s %9s %9s\n", set, "base", "ours"
		printf "  %-44s %9s %9s\n", label[extra[i]],
		       shown(value[set, "base", extra[i]]), shown(value[set, "ours", extra[i]])
	}
}
