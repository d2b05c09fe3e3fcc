# SPDX-License-Identifier: GPL-2.0-only
# awk -v samples=FILE -v phases=FILE -f figures.awk LOG: what plot.gp reads, from
# the lines of the demo's log that begin with '@'. Time begins with the first
# phase. Fails when there are not enough figures for a plot.

$1 == "@phase" {
	if (n == 0)
		zero = $2
	n++
	start[n] = $2 - zero
	name[n] = $3
	note_time($2 - zero)
}

$1 == "@sample" && n > 0 {
	print $2 - zero, $3, $4, $5, $6 > samples
	count++
	note_time($2 - zero)
}

END {
	for (i = 1; i <= n; i++)
		if (name[i] != "end")
			band(start[i], i < n ? start[i + 1] : last, i, name[i])
	printf "last = %.2f\n", last > phases
	exit (count < 2)
}

function note_time(t) {
	if (t > last)
		last = t
}

# Every other band is shaded. A name too near to the one before goes higher.
function band(from, to, i, text) {
	middle = (from + to) / 2
	raised = i > 1 && !raised && middle - before < 0.06 * last
	before = middle
	if (i % 2)
		printf "set object %d rectangle from %.2f, graph 0 to %.2f, graph 1 behind fillcolor rgb \"#eef2f7\" fillstyle solid 1 noborder\n", i, from, to > phases
	printf "set label %d \"%s\" at %.2f, graph %.2f center font \",12\" textcolor rgb \"#404040\"\n", i + 1, text, middle, (raised ? 1.10 : 1.04) > phases
}
