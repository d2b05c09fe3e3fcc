// SPDX-License-Identifier: GPL-2.0-only
/*
 * For programs: JSON, and the text format of Prometheus.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "ksmstat.h"

static void json_memory(const struct snapshot *s, const struct derived *d)
{
	json_figure("page_size_bytes", page_size());
	json_figure("saved_bytes", d->saved);
	json_figure("net_bytes", d->net);
	json_figure("metadata_bytes", d->metadata);
	json_figure("memory_bytes", s->memory);
	json_open("pages", '{');
	json_figure("known", d->known);
	json_figure("merged", d->merged);
	json_figure("zero", d->zero);
	json_figure("unique", d->unique);
	json_figure("changing", d->changing);
	json_close('}');
}

static void json_cost(const struct snapshot *s, const struct derived *d)
{
	bool measured = d->seconds > 0;

	json_open("ksmd", '{');
	json_figure("pid", s->ksmd);
	json_seconds("cpu_seconds", s->cpu_ns);
	json_double("saved_bytes_per_cpu_second", d->saved_per_cpu);
	json_double("measured_seconds", measured ? d->seconds : NAN);
	json_truth("measured_too_short",
		   measured ? figure_of(d->is_too_short) : figure_unknown(NOT_MEASURED));
	json_double("cpu_share", d->cpu_share);
	json_double("pages_scanned_per_second", d->scan_rate);
	json_double("pass_seconds_least", d->pass_least);
	json_double("pass_seconds_most", d->pass_most);
	json_double("hash_pass_seconds_least", d->pass_by_settings);
	json_close('}');
}

static void json_files(const char *key, const struct snapshot *s, int from, int to)
{
	json_open(key, '{');
	for (int file = from; file < to; file++)
		json_figure(ksm_file_name(file), s->file[file]);
	if (!from) {
		if (s->advisor_err)
			json_figure("advisor_mode", figure_unknown(s->advisor_err));
		else
			json_text("advisor_mode", s->advisor);
	}
	json_close('}');
}

static void json_hints(const struct snapshot *s, const struct derived *d)
{
	struct hint hints[MAX_HINTS];
	unsigned int nr = hints_find(hints, s, d);

	json_open("hints", '[');
	for (unsigned int i = 0; i < nr; i++) {
		json_open(NULL, '{');
		json_text("id", hints[i].id);
		json_text("text", hints[i].text);
		json_close('}');
	}
	json_close(']');
}

static void json_missing(const struct snapshot *s)
{
	json_open("missing", '{');
	for (int file = 0; file < KSM_NR_FILES; file++)
		if (s->file[file].err)
			json_text(ksm_file_name(file), reason(s->file[file].err));
	if (s->advisor_err)
		json_text("advisor_mode", reason(s->advisor_err));
	if (s->memory.err)
		json_text("memory", reason(s->memory.err));
	if (s->ksmd.err == -ESRCH)
		json_text("ksmd", "not to be seen in /proc");
	else if (s->cpu_ns.err)
		json_text("ksmd", reason(s->cpu_ns.err));
	json_close('}');
}

int show_json(double interval)
{
	struct derived derived;
	struct figure on;
	struct snapshot now;
	int status = measure(interval, &now, &derived);

	if (status)
		return status;
	on = now.file[KSM_RUN];
	on.value = on.value == RUN_ON;
	json_open(NULL, '{');
	json_truth("on", on);
	json_memory(&now, &derived);
	json_cost(&now, &derived);
	json_files("settings", &now, 0, KSM_NR_SETTINGS);
	json_files("counters", &now, KSM_NR_SETTINGS, KSM_NR_FILES);
	json_hints(&now, &derived);
	json_missing(&now);
	json_close('}');
	return EXIT_OK;
}

static void metric_head(const char *name, const char *type, const char *help)
{
	printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metric(const char *name, const char *type, const char *help, struct figure value)
{
	if (value.err)
		return;
	metric_head(name, type, help);
	printf("%s %lld\n", name, value.value);
}

static void metric_seconds(const char *name, const char *type, const char *help,
			   struct figure value, long long units)
{
	if (value.err)
		return;
	metric_head(name, type, help);
	printf("%s %s\n", name, text_exact(value.value, units));
}

static void metric_pages(const struct derived *d)
{
	const struct {
		const char *state;
		struct figure pages;
	} parts[] = {
		{ "merged", d->merged },
		{ "zero", d->zero },
		{ "unique", d->unique },
		{ "changing", d->changing },
	};
	bool begun = false;

	for (unsigned int i = 0; i < ARRAY_SIZE(parts); i++) {
		if (parts[i].pages.err)
			continue;
		if (!begun)
			metric_head("ksm_known_pages", "gauge", "Pages that KSM knows.");
		begun = true;
		printf("ksm_known_pages{state=\"%s\"} %lld\n", parts[i].state,
		       parts[i].pages.value);
	}
}

static void metric_settings(const struct snapshot *s)
{
	const struct figure *file = s->file;

	metric("ksm_run", "gauge", "0 off, 1 on, 2 off and unmerged.", file[KSM_RUN]);
	metric("ksm_pages_to_scan", "gauge", "Pages that ksmd scans before it sleeps.",
	       file[KSM_PAGES_TO_SCAN]);
	metric_seconds("ksm_sleep_seconds", "gauge", "How long ksmd sleeps then.",
		       file[KSM_SLEEP_MILLISECS], 1000);
	metric("ksm_max_page_sharing", "gauge", "Places that may share one page.",
	       file[KSM_MAX_PAGE_SHARING]);
	metric("ksm_smart_scan", "gauge", "1 if unchanged pages are passed over.",
	       file[KSM_SMART_SCAN]);
}

/* Rates are left to who collects this. */
int show_prometheus(void)
{
	struct derived d;
	struct snapshot s;
	int status = measure(0, &s, &d);

	if (status)
		return status;
	metric("ksm_saved_bytes", "gauge", "Bytes that merging saves, metadata not subtracted.",
	       d.saved);
	metric("ksm_net_bytes", "gauge", "Bytes that merging saves, less metadata.", d.net);
	metric("ksm_metadata_bytes", "gauge", "Bytes of KSM's metadata.", d.metadata);
	metric_seconds("ksm_cpu_seconds_total", "counter", "CPU time of ksmd.", s.cpu_ns,
		       NSEC_PER_SEC);
	metric_pages(&d);
	metric("ksm_zero_pages", "gauge", "Empty pages that became the zero page.",
	       s.file[KSM_ZERO_PAGES]);
	metric("ksm_pages_scanned_total", "counter", "Pages that ksmd scanned.",
	       s.file[KSM_PAGES_SCANNED]);
	metric("ksm_pages_skipped_total", "counter", "Pages passed over as unchanged.",
	       s.file[KSM_PAGES_SKIPPED]);
	metric("ksm_full_scans_total", "counter", "Passes completed.", s.file[KSM_FULL_SCANS]);
	metric("ksm_stable_node_chains", "gauge", "Contents of which there are several copies.",
	       s.file[KSM_CHAINS]);
	metric("ksm_stable_node_dups", "gauge", "Such copies.", s.file[KSM_DUPS]);
	metric_settings(&s);
	return EXIT_OK;
}
