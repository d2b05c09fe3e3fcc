// SPDX-License-Identifier: GPL-2.0-only
/*
 * What may be set, to what, and when. The kernel checks as well, but all it can say
 * is EINVAL or EBUSY; and some kernels take values that make no sense.
 */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "ksmstat.h"

/* When a setting can be changed. */
enum condition {
	ANY_TIME,
	NO_ADVISOR,		/* while advisor_mode is none */
	NOTHING_MERGED,		/* while no page is merged */
	BELOW_MAXIMUM,		/* not above advisor_max_pages_to_scan */
	ABOVE_MINIMUM,		/* not below advisor_min_pages_to_scan */
};

/* advisor_mode is no number. */
#define ADVISOR_MODE	KSM_NR_FILES

static const struct {
	const char *name;
	enum ksm_file file;
	long long least;
	long long most;
	enum condition condition;
	const char *what;
} settings[] = {
	{ "run", KSM_RUN, 0, 2, ANY_TIME, "0 off, 1 on, 2 off and unmerge" },
	{ "pages_to_scan", KSM_PAGES_TO_SCAN, 1, UINT_MAX, NO_ADVISOR, "pages" },
	{ "sleep_millisecs", KSM_SLEEP_MILLISECS, 0, UINT_MAX, ANY_TIME, "milliseconds" },
	{ "merge_across_nodes", KSM_MERGE_ACROSS_NODES, 0, 1, NOTHING_MERGED, "0 no, 1 yes" },
	{ "use_zero_pages", KSM_USE_ZERO_PAGES, 0, 1, ANY_TIME, "0 no, 1 yes" },
	{ "max_page_sharing", KSM_MAX_PAGE_SHARING, 2, INT_MAX, NOTHING_MERGED, "places" },
	{ "stable_node_chains_prune_millisecs", KSM_CHAINS_PRUNE_MILLISECS, 0, UINT_MAX,
	  ANY_TIME, "milliseconds" },
	{ "smart_scan", KSM_SMART_SCAN, 0, 1, ANY_TIME, "0 no, 1 yes" },
	{ "advisor_mode", ADVISOR_MODE, 0, 0, ANY_TIME, "none or scan-time" },
	{ "advisor_max_cpu", KSM_ADVISOR_MAX_CPU, 1, 100, ANY_TIME, "percent of a CPU" },
	{ "advisor_min_pages_to_scan", KSM_ADVISOR_MIN_PAGES, 1, UINT_MAX, BELOW_MAXIMUM,
	  "pages" },
	{ "advisor_max_pages_to_scan", KSM_ADVISOR_MAX_PAGES, 1, UINT_MAX, ABOVE_MINIMUM,
	  "pages" },
	{ "advisor_target_scan_time", KSM_ADVISOR_TARGET, 1, UINT_MAX, ANY_TIME, "seconds" },
};

#define NR_SETTINGS	((int)ARRAY_SIZE(settings))

/* Its number, or -1. */
int setting_find(const char *key)
{
	for (int i = 0; i < NR_SETTINGS; i++)
		if (!strcmp(settings[i].name, key))
			return i;
	return -1;
}

/**
 * setting_is_valid - is it a value that the setting can have at all?
 * @setting: which
 * @value: what is wanted
 * @why: why not
 *
 * Return: whether it is.
 */
bool setting_is_valid(int setting, const char *value, char why[WHY_SIZE])
{
	struct figure number = figure_parse(value, true);
	bool good;

	if (settings[setting].file == ADVISOR_MODE) {
		good = !strcmp(value, "none") || !strcmp(value, "scan-time");
		snprintf(why, WHY_SIZE, "must be none or scan-time");
	} else {
		good = !number.err && number.value >= settings[setting].least &&
		       number.value <= settings[setting].most;
		snprintf(why, WHY_SIZE, "must be a number from %lld to %lld (%s)",
			 settings[setting].least, settings[setting].most,
			 settings[setting].what);
	}
	return good;
}

static bool no_advisor(char why[WHY_SIZE])
{
	char mode[ADVISOR_TEXT];

	if (ksm_advisor_read(mode) || !strcmp(mode, "none"))
		return true;
	snprintf(why, WHY_SIZE,
		 "advisor_mode is %s, so the kernel sets it; 'ksmstat set advisor_mode none' first",
		 mode);
	return false;
}

static bool nothing_merged(char why[WHY_SIZE])
{
	struct figure shared = ksm_file_read(KSM_PAGES_SHARED);

	if (!figure_above(shared, 0))
		return true;
	snprintf(why, WHY_SIZE, "cannot change while pages are merged; 'ksmstat unmerge' first");
	return false;
}

static bool keeps_to(enum ksm_file limit, int sign, long long value, char why[WHY_SIZE])
{
	struct figure other = ksm_file_read(limit);

	if (other.err || (sign < 0 ? value <= other.value : value >= other.value))
		return true;
	snprintf(why, WHY_SIZE, "would be %s %s, which is %lld", sign < 0 ? "above" : "below",
		 ksm_file_name(limit), other.value);
	return false;
}

/**
 * setting_is_possible - can the setting be changed to a value now?
 * @setting: which
 * @value: a value that is valid
 * @why: why not
 *
 * What cannot be found out is left to the kernel.
 *
 * Return: whether it can.
 */
bool setting_is_possible(int setting, const char *value, char why[WHY_SIZE])
{
	long long number = figure_parse(value, true).value;

	switch (settings[setting].condition) {
	case NO_ADVISOR:
		return no_advisor(why);
	case NOTHING_MERGED:
		return nothing_merged(why);
	case BELOW_MAXIMUM:
		return keeps_to(KSM_ADVISOR_MAX_PAGES, -1, number, why);
	case ABOVE_MINIMUM:
		return keeps_to(KSM_ADVISOR_MIN_PAGES, 1, number, why);
	case ANY_TIME:
		break;
	}
	return true;
}

/* Its value as a word; 0 or a negative errno. */
int setting_read(int setting, char value[ADVISOR_TEXT])
{
	struct figure number;

	if (settings[setting].file == ADVISOR_MODE)
		return ksm_advisor_read(value);
	number = ksm_file_read(settings[setting].file);
	snprintf(value, ADVISOR_TEXT, "%lld", number.value);
	return number.err;
}

void setting_list(FILE *out)
{
	for (int i = 0; i < NR_SETTINGS; i++) {
		if (settings[i].file == ADVISOR_MODE)
			fprintf(out, "  %s: %s\n", settings[i].name, settings[i].what);
		else
			fprintf(out, "  %s: %lld to %lld, %s\n", settings[i].name,
				settings[i].least, settings[i].most, settings[i].what);
	}
}
