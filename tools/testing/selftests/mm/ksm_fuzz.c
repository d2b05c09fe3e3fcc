// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random bytes for each file of /sys/kernel/mm/ksm that can be written, while
 * registered memory is scanned. A model tells what is taken and what is refused;
 * after each write all files must read as it says. See ksm_fuzz.h for long runs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include "ksm_fuzz.h"
#include "ksm_util.h"
#include "vm_util.h"

#define KSM_DIR		"/sys/kernel/mm/ksm/"

#define PAGES		64	/* of each of the two areas */
#define EMPTY		8	/* of these */
#define SEED		1000
#define OTHER		5000

/* Rounds from one time to the next. */
#define SETTLE_ROUNDS	64
#define LOOK_ROUNDS	256
#define CHECK_ROUNDS	2048

/* A value may be this much longer than what a file takes. */
#define MAX_TEXT	(3 * psize())

enum kind {
	NUMBER,
	BOOLEAN,
	ADVISOR,	/* one of two words */
};

/* The files, what they take, and in which order they are here. */
enum file {
	RUN, PAGES_TO_SCAN, SLEEP, ACROSS_NODES, ZERO_PAGES, MAX_SHARING, PRUNE, SMART_SCAN,
	ADVISOR_MODE, MAX_CPU, MIN_PAGES, MAX_PAGES, TARGET_TIME, NR_FILES,
};

static const struct {
	const char *name;
	enum kind kind;
	uint64_t least, most;
	bool may_say_range;	/* a bad number may give ERANGE */
	bool may_take_more;	/* how large a number may be is not the same in all kernels */
} files[NR_FILES] = {
	[RUN]		= { "run", NUMBER, 0, 2 },
	[PAGES_TO_SCAN]	= { "pages_to_scan", NUMBER, 0, UINT_MAX },
	[SLEEP]		= { "sleep_millisecs", NUMBER, 0, UINT_MAX },
	[ACROSS_NODES]	= { "merge_across_nodes", NUMBER, 0, 1, .may_say_range = true },
	[ZERO_PAGES]	= { "use_zero_pages", BOOLEAN },
	[MAX_SHARING]	= { "max_page_sharing", NUMBER, 2, INT_MAX, .may_say_range = true },
	[PRUNE]		= { "stable_node_chains_prune_millisecs", NUMBER, 0, UINT_MAX },
	[SMART_SCAN]	= { "smart_scan", BOOLEAN },
	[ADVISOR_MODE]	= { "advisor_mode", ADVISOR },
	[MAX_CPU]	= { "advisor_max_cpu", NUMBER, 0, UINT_MAX, .may_take_more = true },
	[MIN_PAGES]	= { "advisor_min_pages_to_scan", NUMBER, 0, UINT_MAX,
			    .may_take_more = true },
	[MAX_PAGES]	= { "advisor_max_pages_to_scan", NUMBER, 0, UINT_MAX,
			    .may_take_more = true },
	[TARGET_TIME]	= { "advisor_target_scan_time", NUMBER, 1, UINT_MAX,
			    .may_take_more = true },
};

static const char * const advisor_text[] = { "[none] scan-time\n", "none [scan-time]\n" };
static const char * const advisor_word[] = { "none", "scan-time" };

/* A value to write. */
struct text {
	char *bytes;		/* MAX_TEXT of them */
	size_t size;
};

FIXTURE(sysfs)
{
	struct ksm_test ksm;
	struct fuzz fuzz;
	struct text text;
	char *seen;		/* what a file gets to see of it */
	int fd[NR_FILES];	/* -1: this kernel has no such file */
	uint64_t value[NR_FILES];
	char *still, *moving;	/* areas; the first is never written to */
	long settled;		/* full_scans when all was well last */
	unsigned long taken, refused, busy, merged;
};

FIXTURE_SETUP(sysfs)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	fuzz_begin(&self->fuzz);
	TH_LOG("KSM_FUZZ_SEED=%llu, %lu rounds", (unsigned long long)self->fuzz.seed,
	       self->fuzz.rounds);
	self->text.bytes = malloc(MAX_TEXT);
	self->seen = malloc(psize() + 1);
	self->still = ksm_map_registered(PAGES);
	self->moving = ksm_map_registered(PAGES);
	ASSERT_TRUE(self->text.bytes && self->seen && self->still && self->moving);
	/* Twins, and empty pages. */
	ksm_fill(self->still, PAGES / 2, SEED, 1);
	ksm_fill(self->still + PAGES / 2 * psize(), PAGES / 2 - EMPTY, SEED, 1);
	memset(self->still + (PAGES - EMPTY) * psize(), 0, EMPTY * psize());
	ksm_fill(self->moving, PAGES, OTHER, 0);
}

FIXTURE_TEARDOWN_PARENT(sysfs)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* ---- values ---- */

static void add_bytes(struct text *text, const char *bytes, size_t size)
{
	if (size > MAX_TEXT - text->size)
		size = MAX_TEXT - text->size;
	memcpy(text->bytes + text->size, bytes, size);
	text->size += size;
}

static void add_repeated(struct text *text, char byte, size_t times)
{
	while (times--)
		add_bytes(text, &byte, 1);
}

static void add_number(struct text *text, const char *format, uint64_t number)
{
	char bytes[64];

	add_bytes(text, bytes, snprintf(bytes, sizeof(bytes), format, (unsigned long long)number));
}

/* With its null byte, now and then. */
static void add_word(struct fuzz *fuzz, struct text *text)
{
	static const char * const words[] = {
		"none", "scan-time", "[none]", "none [scan-time]", "NONE", "scan", "scan-time2",
		"nones", "scan_time", "y", "Yes", "n", "NO", "on", "oN", "off", "o", "ox", "true",
		"T", "False", "enable", "Disable", "x", "nan", "inf", "1 2", "0,1", "{}", "%s%n",
	};
	const char *word = words[fuzz_below(fuzz, ARRAY_SIZE(words))];

	add_bytes(text, word, strlen(word) + fuzz_chance(fuzz, 8));
}

static void add_odd_number(struct fuzz *fuzz, struct text *text)
{
	static const char * const formats[] = {
		"0x%llx", "0X%llX", "%llx", "0%llo", "0b%llu", "%lld", "%llu.0", "%llue1", "%lluU",
		"%lluk", "1%llu", "0%llu", "%llu %1$llu", "%llu\n%1$llu",
	};

	add_number(text, formats[fuzz_below(fuzz, ARRAY_SIZE(formats))], fuzz_number(fuzz));
}

static void add_random_bytes(struct fuzz *fuzz, struct text *text, size_t times)
{
	while (times--)
		add_repeated(text, fuzz_next(fuzz), 1);
}

static void add_blanks(struct fuzz *fuzz, struct text *text)
{
	static const char blanks[] = "\n\n\n \t\v\f\r";

	for (size_t times = fuzz_below(fuzz, 3); times--;)
		add_repeated(text, blanks[fuzz_below(fuzz, sizeof(blanks))], 1);
}

static void add_sign(struct fuzz *fuzz, struct text *text)
{
	static const char * const signs[] = { "+", "-", "--", "++", "+-", "-+", "0", "00" };
	const char *sign = signs[fuzz_below(fuzz, ARRAY_SIZE(signs))];

	add_bytes(text, sign, strlen(sign));
}

/* Often one that is taken, or nearly so. */
static void add_body(struct fuzz *fuzz, struct text *text, enum file file)
{
	uint64_t range = files[file].most - files[file].least;

	switch (fuzz_below(fuzz, 10)) {
	case 0:
	case 1:
	case 2:
		add_number(text, "%llu", files[file].least + fuzz_next(fuzz) % (range + 2));
		break;
	case 3:
		add_number(text, "%llu", fuzz_number(fuzz));
		break;
	case 4:
		add_odd_number(fuzz, text);
		break;
	case 5:
		add_random_bytes(fuzz, text, fuzz_below(fuzz, 20));
		break;
	case 6:
		add_repeated(text, '0' + fuzz_below(fuzz, 10),
			     fuzz_chance(fuzz, 8) ? fuzz_below(fuzz, 2 * psize()) :
						    fuzz_below(fuzz, 25));
		break;
	case 7:
		break;
	default:
		add_word(fuzz, text);
		break;
	}
}

/* So long that it just fits, or does not. */
static void pad(struct fuzz *fuzz, struct text *text)
{
	static const char fills[] = "0\n 9x";	/* and the null byte */
	size_t size = psize() - 2 + fuzz_below(fuzz, 5);

	if (fuzz_chance(fuzz, 4))
		size += psize();
	if (text->size < size)
		add_repeated(text, fills[fuzz_below(fuzz, sizeof(fills))], size - text->size);
}

static void make_value(struct fuzz *fuzz, struct text *text, enum file file)
{
	text->size = 0;
	if (fuzz_chance(fuzz, 8))
		add_blanks(fuzz, text);
	if (fuzz_chance(fuzz, 8))
		add_sign(fuzz, text);
	if (fuzz_chance(fuzz, 64))
		add_repeated(text, '0', fuzz_below(fuzz, psize() + 16));
	add_body(fuzz, text, file);
	if (fuzz_chance(fuzz, 3))
		add_blanks(fuzz, text);
	if (fuzz_chance(fuzz, 16))
		add_random_bytes(fuzz, text, fuzz_below(fuzz, 4));
	if (fuzz_chance(fuzz, 32))
		pad(fuzz, text);
	if (text->size && fuzz_chance(fuzz, 16))
		text->bytes[fuzz_below(fuzz, text->size)] = fuzz_chance(fuzz, 2) ?
							    '\0' : fuzz_next(fuzz);
}

/* ---- the model ---- */

/* As kstrtoul() has it. */
static bool parse_number(const char *text, uint64_t *number)
{
	*number = 0;
	if (*text == '+')
		text++;
	if (!isdigit(*text))
		return false;
	for (; isdigit(*text); text++) {
		if (__builtin_mul_overflow(*number, 10, number) ||
		    __builtin_add_overflow(*number, *text - '0', number))
			return false;
	}
	if (*text == '\n')
		text++;
	return !*text;
}

/* As kstrtobool() has it: the first character tells, after an o the second. */
static bool parse_boolean(const char *text, uint64_t *number)
{
	char first = tolower(*text), second = first == 'o' ? tolower(text[1]) : '\0';

	*number = strchr("1yte", first) || second == 'n';
	return first && (strchr("1yte0nfd", first) || second == 'n' || second == 'f');
}

static bool parse_advisor(const char *text, uint64_t *number)
{
	for (*number = 0; *number < ARRAY_SIZE(advisor_word); ++*number) {
		size_t size = strlen(advisor_word[*number]);

		if (!strncmp(text, advisor_word[*number], size) &&
		    (!text[size] || !strcmp(text + size, "\n")))
			return true;
	}
	return false;
}

static bool parse(enum file file, const char *text, uint64_t *number)
{
	switch (files[file].kind) {
	case BOOLEAN:
		return parse_boolean(text, number);
	case ADVISOR:
		return parse_advisor(text, number);
	default:
		return parse_number(text, number) && *number >= files[file].least;
	}
}

static bool is_merged(const char *page)
{
	return ksm_count_merged(getpid(), page, 1);
}

static bool is_fixed_by_merging(enum file file)
{
	return file == ACROSS_NODES || file == MAX_SHARING;
}

/* Pages shared forbid a change. While ksmd is off their number stays as it is. */
static bool may_be_busy(FIXTURE_DATA(sysfs) *self)
{
	return self->value[RUN] == 1 || ksm_get("pages_shared") > 0;
}

/* While it runs, these two stay merged if they are. */
static bool must_be_busy(FIXTURE_DATA(sysfs) *self)
{
	if (self->value[RUN] != 1)
		return ksm_get("pages_shared") > 0;
	return is_merged(self->still) && is_merged(self->still + PAGES / 2 * psize());
}

/* Whether a write may end with @error; 0 if the value was taken. */
static bool may_end_with(FIXTURE_DATA(sysfs) *self, enum file file, uint64_t number, bool good,
			 bool busy, int error)
{
	if (good && number > files[file].most && files[file].kind == NUMBER) {
		if (files[file].may_take_more && !error)
			return true;
		good = false;
	}
	if (good && file == PAGES_TO_SCAN && self->value[ADVISOR_MODE])
		good = false;
	if (!good)
		return error == -EINVAL || (files[file].may_say_range && error == -ERANGE);
	if (!is_fixed_by_merging(file) || number == self->value[file])
		return !error;
	return busy ? error == -EBUSY : !error || (error == -EBUSY && may_be_busy(self));
}

static void note_value(FIXTURE_DATA(sysfs) *self, enum file file, uint64_t number)
{
	uint64_t least = self->value[MIN_PAGES] ?: 1;

	if (file == ADVISOR_MODE && number != self->value[file])
		self->value[PAGES_TO_SCAN] = number ? least : 100;
	self->value[file] = number;
}

/* ---- writing and reading ---- */

static bool read_knob(FIXTURE_DATA(sysfs) *self, enum file file, char *text, size_t size)
{
	ssize_t got = pread(self->fd[file], text, size - 1, 0);

	if (got < 0)
		return false;
	text[got] = '\0';
	return true;
}

/* Whether each file reads as the model says. An advisor sets pages_to_scan itself. */
static bool all_read_well(FIXTURE_DATA(sysfs) *self)
{
	char text[64], wanted[64];

	for (enum file file = 0; file < NR_FILES; file++) {
		if (self->fd[file] < 0 || (file == PAGES_TO_SCAN && self->value[ADVISOR_MODE]))
			continue;
		if (files[file].kind == ADVISOR)
			snprintf(wanted, sizeof(wanted), "%s", advisor_text[self->value[file]]);
		else
			snprintf(wanted, sizeof(wanted), "%llu\n",
				 (unsigned long long)self->value[file]);
		if (!read_knob(self, file, text, sizeof(text)) || strcmp(text, wanted)) {
			fprintf(stderr, "# %s reads '%s', not '%s'\n", files[file].name, text,
				wanted);
			return false;
		}
	}
	return true;
}

static void tell_write(FIXTURE_DATA(sysfs) *self, enum file file, int error)
{
	fprintf(stderr, "# round %lu: %zu bytes to %s give %d:", self->fuzz.round,
		self->text.size, files[file].name, error);
	for (size_t i = 0; i < self->text.size && i < 64; i++)
		fprintf(stderr, isgraph((unsigned char)self->text.bytes[i]) ? " %c" : " \\x%02hhx",
			self->text.bytes[i]);
	fprintf(stderr, "\n");
}

/* Writes self->text; whether that went as it should. */
static bool write_value(FIXTURE_DATA(sysfs) *self, enum file file)
{
	size_t size = self->text.size < psize() ? self->text.size : psize();
	bool good, busy, well;
	uint64_t number;
	ssize_t done;
	int error;

	if (self->fd[file] < 0)
		return true;
	memcpy(self->seen, self->text.bytes, size);
	self->seen[size] = '\0';
	good = parse(file, self->seen, &number);
	busy = good && is_fixed_by_merging(file) && must_be_busy(self);
	done = pwrite(self->fd[file], self->text.bytes, self->text.size,
		      fuzz_chance(&self->fuzz, 8) ? fuzz_next(&self->fuzz) % INT_MAX : 0);
	error = done < 0 ? -errno : 0;
	/* Nothing written is nothing done. */
	well = size ? may_end_with(self, file, number, good, busy, error) : !error;
	well &= error || done == (ssize_t)size;
	if (size && !error)
		note_value(self, file, number);
	self->taken += !error;
	self->refused += error && error != -EBUSY;
	self->busy += error == -EBUSY;
	if (well && all_read_well(self))
		return true;
	tell_write(self, file, error);
	return false;
}

static bool write_plain(FIXTURE_DATA(sysfs) *self, enum file file, const char *value)
{
	self->text.size = 0;
	add_bytes(&self->text, value, strlen(value));
	return write_value(self, file);
}

/* ---- rounds ---- */

/* What was read before anything was written. */
static bool open_files(FIXTURE_DATA(sysfs) *self)
{
	char text[128];

	for (enum file file = 0; file < NR_FILES; file++) {
		snprintf(text, sizeof(text), KSM_DIR "%s", files[file].name);
		self->fd[file] = open(text, O_RDWR);
		if (self->fd[file] < 0 && errno == ENOENT)
			continue;
		if (self->fd[file] < 0 || !read_knob(self, file, text, sizeof(text)))
			return false;
		if (files[file].kind == ADVISOR)
			self->value[file] = !strcmp(text, advisor_text[1]);
		else
			self->value[file] = strtoull(text, NULL, 10);
	}
	return all_read_well(self);
}

/* Lets ksmd work with settings with which it can, until it has. */
static bool settle(FIXTURE_DATA(sysfs) *self)
{
	if (!write_plain(self, ADVISOR_MODE, "none") ||
	    !write_plain(self, PAGES_TO_SCAN, "10000") || !write_plain(self, SLEEP, "0") ||
	    !write_plain(self, RUN, "1"))
		return false;
	if (!ksm_wait_until(ksm_get("full_scans") > self->settled + 2))
		return false;
	self->settled = ksm_get("full_scans");
	self->merged += ksm_get("pages_sharing") > 0;
	return true;
}

/* Whether each byte is right; then the second area changes. */
static bool look(FIXTURE_DATA(sysfs) *self, unsigned long look)
{
	const char *empty = self->still + (PAGES - EMPTY) * psize();

	if (ksm_first_wrong(self->still, PAGES / 2, SEED, 1) != -1 ||
	    ksm_first_wrong(self->still + PAGES / 2 * psize(), PAGES / 2 - EMPTY, SEED, 1) != -1)
		return false;
	if (*empty || memcmp(empty, empty + 1, EMPTY * psize() - 1))
		return false;
	if (ksm_first_wrong(self->moving, PAGES, OTHER + look, 0) != -1)
		return false;
	ksm_fill(self->moving, PAGES, OTHER + look + 1, 0);
	return true;
}

static bool one_round(FIXTURE_DATA(sysfs) *self)
{
	unsigned long round = self->fuzz.round;
	enum file file = fuzz_below(&self->fuzz, NR_FILES);

	if (round % SETTLE_ROUNDS == 0 && !settle(self))
		return false;
	if (round % LOOK_ROUNDS == 0 && !look(self, round / LOOK_ROUNDS))
		return false;
	if (round % CHECK_ROUNDS == 0 && !ksm_check())
		return false;
	make_value(&self->fuzz, &self->text, file);
	return write_value(self, file);
}

TEST_F_TIMEOUT(sysfs, takes_what_is_documented_and_refuses_the_rest, FUZZ_TIMEOUT)
{
	struct fuzz *fuzz = &self->fuzz;
	uint64_t start = ksm_now_millisecs();

	ASSERT_TRUE(open_files(self));
	self->settled = ksm_get("full_scans");
	for (fuzz->round = 0; fuzz->round < fuzz->rounds; fuzz->round++) {
		ASSERT_TRUE(one_round(self)) {
			TH_LOG("round %lu of KSM_FUZZ_SEED=%llu", fuzz->round,
			       (unsigned long long)fuzz->seed);
		}
	}
	ASSERT_TRUE(settle(self));
	TH_LOG("%lu taken, %lu refused, %lu busy; %llu ms", self->taken, self->refused, self->busy,
	       (unsigned long long)(ksm_now_millisecs() - start));
	/* It was all about something. */
	EXPECT_GT(self->taken, fuzz->rounds / 16);
	EXPECT_GT(self->refused, fuzz->rounds / 16);
	EXPECT_GT(self->merged, fuzz->rounds / SETTLE_ROUNDS / 2);
	EXPECT_TRUE(ksm_check());
}

TEST_HARNESS_MAIN
