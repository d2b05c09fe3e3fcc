# SPDX-License-Identifier: GPL-2.0-only
# gnuplot -e "dir='DIR'; out='FILE'" plot.gp: the demo's memory over time.
# DIR/samples.dat: time, MiB used, MiB available, MiB saved, ksmd's CPU percent.
# DIR/phases.gp sets the bands and their names, and `last`, the last second.

set terminal svg size 1000,640 font "sans-serif,13" background "white"
set output out
load dir . "/phases.gp"
samples = dir . "/samples.dat"

set multiplot
set lmargin at screen 0.085
set rmargin at screen 0.925
set xrange [0:last]
set tics nomirror out
set border 3 lc rgb "#606060"
set grid ytics lc rgb "#dddddd" lw 1
set style fill solid 0.25 noborder

set tmargin at screen 0.85
set bmargin at screen 0.50
set label 1 "Memory of eight redis servers with the same data" \
	at screen 0.085, 0.968 font ",16"
set key at screen 0.925, 0.968 right horizontal samplen 2
set format x ""
set yrange [0:*]
set ylabel "MiB" offset 1
plot samples using 1:2 with lines lw 2.5 lc rgb "#c0392b" title "memory used", \
     samples using 1:3 with lines lw 2.5 lc rgb "#2471a3" title "memory available"

unset for [i = 1:50] label i
set tmargin at screen 0.41
set bmargin at screen 0.09
set key at screen 0.925, 0.455 right horizontal samplen 2
set format x "%g"
set xlabel "seconds" offset 0, 0.4
set ylabel "MiB saved" offset 1
set border 11
set ytics nomirror
set y2range [0:100]
set y2tics 0, 25
set y2label "CPU of ksmd, %" offset -1
plot samples using 1:4 with filledcurves y1=0 lc rgb "#229954" notitle, \
     samples using 1:4 with lines lw 2.5 lc rgb "#229954" title "saved by KSM, MiB", \
     samples using 1:5 axes x1y2 with steps lw 1.5 lc rgb "#7d6608" title "CPU of ksmd, % of one CPU"
unset multiplot
