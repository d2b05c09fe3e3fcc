# SPDX-License-Identifier: GPL-2.0-only
# awk -v size=MIB -v big=MIB -v quiet=PERCENT -f figures.awk -f table.awk FILE...
# Prints base, ours, the ratio, and whether the target is reached. Values are medians
# of the rounds; "+-" is half the distance from the least to the most, in percent.

BEGIN {
	n_loads = split("unique look-alike twins mixed churn sparse small redis", loads, " ")

	row("pass1_ns", "pass 1, ns per page")
	row("pass2_ns", "pass 2, ns per page")
	row("pass3_ns", "pass 3, ns per page")
	row("pass12_ns", "pass 1 + 2, ns per page")
	row("steady_ns", "steady, ns per page")
	row("steady_sched_ns", "  the same by the scheduler's clock")
	row("metadata_bytes", "metadata, bytes per page")
	row("merged_pass3", "pages saved after pass 3")
	row("merge_cpu_s", "CPU s until merged")
	row("mib_per_cpu_s", "MiB saved per CPU s")
	n_scan = n_rows
	for (i = split("off other same", places, " "); i; i--)
		place_name[places[i]] = places[i] == "off" ? "ksmd off" : "ksmd on the " places[i] " CPU"
	for (i = 1; i <= 3; i++) {
		row("write_p99_us_" places[i], place_name[places[i]] ": write, 99 %, us")
		row("write_max_us_" places[i], "  longest write, us")
		row("late_p99_us_" places[i], "  turn of 64 writes late, 99 %, us")
		row("late_max_us_" places[i], "  latest turn, us")
	}

	# The table of targets: ours must be at most 1/N of the base.
	target["unique", "pass12_ns"] = 6
	target["look-alike", "pass12_ns"] = 10
	target["twins", "pass12_ns"] = 4
	target["mixed", "pass12_ns"] = 4
	target["unique", "steady_ns"] = 100
	target["look-alike", "steady_ns"] = 100
	target["twins", "steady_ns"] = 15
	max_bytes = 16
	max_growth = 1.15
	# Redis goes on writing, so the last pages saved come and go.
	tolerance["redis"] = 128
}

END {
	for (i = 1; i <= n_loads; i++)
		if (seen[loads[i]])
			section(loads[i], loads[i], 1, n_scan)
	if (seen["writer"])
		section("writer", "writer: 64 pages each ms", n_scan + 1, n_rows)
	growth()
	closing_words()
}

function row(figure, text) {
	figures[++n_rows] = figure
	label[n_rows] = text
}

function section(load, title, from, to,    i) {
	printf "\n%-38s %10s %4s %10s %4s %8s  %s\n", title, "base", "+-%", "ours", "+-%", "ours", "target"
	for (i = from; i <= to; i++)
		line(load, i)
}

function line(load, i,    base, ours, b, o) {
	base = "base" SUBSEP size SUBSEP load SUBSEP figures[i]
	ours = "ours" SUBSEP size SUBSEP load SUBSEP figures[i]
	if (!count[base] && !count[ours])
		return
	b = median(base)
	o = median(ours)
	if (figures[i] == "merged_pass3" && !b && !o)
		return
	printf "  %-36s %10s %4s %10s %4s %8s  %s\n", label[i], shown(base, b), spread(base, b),
	       shown(ours, o), spread(ours, o), count[base] && count[ours] ? ratio(b, o) : "",
	       count[base] && count[ours] ? verdict(load, figures[i], b, o) : ""
}

function shown(key, v) {
	if (!count[key])
		return "-"
	return v >= 100 || v == 0 ? sprintf("%d", v + 0.5) : sprintf(v >= 10 ? "%.1f" : "%.2f", v)
}

function spread(key, middle) {
	if (count[key] < 2 || !middle)
		return ""
	return sprintf("%.0f", 50 * (most(key) - least(key)) / middle)
}

function ratio(b, o) {
	if (b <= 0 || o <= 0)
		return ""
	if (o < b * 0.95)
		return sprintf("1/%.3g", b / o)
	return sprintf("x %.3g", o / b)
}

function judged(text, good) {
	n_targets++
	n_reached += good
	return text (good ? ": reached" : ": MISSED")
}

function verdict(load, figure, b, o) {
	if ((load, figure) in target)
		return judged("1/" target[load, figure], o * target[load, figure] <= b)
	if (load == "unique" && figure == "metadata_bytes")
		return judged("at most " max_bytes, o <= max_bytes)
	if (figure == "merged_pass3")
		return judged("not fewer", o >= b - tolerance[load])
	return ""
}

function growth(    from, to, factor) {
	from = "ours" SUBSEP 1024 SUBSEP "unique" SUBSEP "steady_ns"
	to = "ours" SUBSEP big SUBSEP "unique" SUBSEP "steady_ns"
	if (!count[from] || !count[to])
		return
	factor = median(to) / median(from)
	printf "\nsteady, unique, ours, ns per page: %.2f at 1 GiB, %.2f at %d GiB: x %.2f; at most %s\n",
	       median(from), median(to), big / 1024, factor,
	       judged("x " max_growth, factor <= max_growth)
}

function closing_words() {
	printf "\n%d of %d targets reached\n", n_reached, n_targets
	print "CPU time: ksmd alone on a CPU, by the clock, its waits included; a pass is seen to end"
	print "within 0.2 ms. The scheduler's clock leaves the waits out, but goes in steps of 10 ms."
	print "A writer in UML pays a system call of the host for each page whose PTE was changed."
	if (busy)
		printf "The machine was busy in %d of %d runs: other programs took up to %d %% of a CPU.\n",
		       busy, runs, busiest
}
