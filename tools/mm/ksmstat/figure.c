// SPDX-License-Identifier: GPL-2.0-only
/*
 * Numbers that may be unknown. What follows from an unknown number is unknown, for
 * the same reason; nothing ever wraps round.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "ksmstat.h"

struct figure figure_of(long long value)
{
	return (struct figure){ .value = value };
}

struct figure figure_unknown(int err)
{
	return (struct figure){ .err = err };
}

static struct figure first_unknown(struct figure a, struct figure b)
{
	return figure_unknown(a.err ? a.err : b.err);
}

struct figure figure_add(struct figure a, struct figure b)
{
	struct figure sum = { 0 };

	if (a.err || b.err)
		return first_unknown(a, b);
	if (__builtin_add_overflow(a.value, b.value, &sum.value))
		return figure_unknown(BEYOND);
	return sum;
}

struct figure figure_sub(struct figure a, struct figure b)
{
	struct figure difference = { 0 };

	if (a.err || b.err)
		return first_unknown(a, b);
	if (__builtin_sub_overflow(a.value, b.value, &difference.value))
		return figure_unknown(BEYOND);
	return difference;
}

struct figure figure_mul(struct figure a, struct figure b)
{
	struct figure product = { 0 };

	if (a.err || b.err)
		return first_unknown(a, b);
	if (__builtin_mul_overflow(a.value, b.value, &product.value))
		return figure_unknown(BEYOND);
	return product;
}

/* What part of @b is @a? Of nothing that is not known. */
double figure_ratio(struct figure a, struct figure b)
{
	if (a.err || b.err || !b.value)
		return NAN;
	return (double)a.value / b.value;
}

bool figure_is(struct figure f, long long value)
{
	return !f.err && f.value == value;
}

bool figure_above(struct figure f, long long value)
{
	return !f.err && f.value > value;
}

/**
 * figure_parse - the number that a text is
 * @text: decimal digits, and perhaps a minus; nothing else
 * @may_be_negative: a negative one means something here
 *
 * Return: the number, or NOT_A_NUMBER, NEGATIVE or TOO_LARGE.
 */
struct figure figure_parse(const char *text, bool may_be_negative)
{
	const char *digits = text + (*text == '-');
	struct figure f = { 0 };

	if (!*digits || digits[strspn(digits, "0123456789")])
		return figure_unknown(NOT_A_NUMBER);
	for (const char *c = digits; *c; c++) {
		int digit = digits == text ? *c - '0' : '0' - *c;

		if (__builtin_mul_overflow(f.value, 10, &f.value) ||
		    __builtin_add_overflow(f.value, digit, &f.value))
			return figure_unknown(TOO_LARGE);
	}
	if (f.value < 0 && !may_be_negative)
		return figure_unknown(NEGATIVE);
	return f;
}

/**
 * reason - why a number is unknown, in words
 * @err: as in struct figure
 *
 * Return: the words; good until the next call.
 */
const char *reason(int err)
{
	static char text[128];

	switch (err) {
	case -ENOENT:
		return "not offered by this kernel";
	case -EACCES:
	case -EPERM:
		return "not permitted; needs root";
	case NOT_A_NUMBER:
		return "unreadable (not a number)";
	case TOO_LARGE:
		return "unreadable (number too large)";
	case NEGATIVE:
		return "unreadable (negative number)";
	case BEYOND:
		return "numbers too large to be true";
	case DISAGREE:
		return "counters do not agree";
	case NOT_MEASURED:
		return "not measured";
	case NO_PROC:
		return "not to be had without /proc";
	}
	snprintf(text, sizeof(text), "unreadable (%s)", strerror(-err));
	return text;
}

/* Likewise, why something could not be written. */
const char *write_reason(int err)
{
	return err == -ENOENT || err == -EACCES || err == -EPERM ? reason(err) : strerror(-err);
}
