// SPDX-License-Identifier: GPL-2.0-only
/*
 * Numbers in words and units; names that may hold anything.
 */
#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>
#include <wctype.h>

#include "ksmstat.h"

#define NOT_KNOWN	"not known"

static char *next_text(void)
{
	static char ring[16][TEXT_SIZE];
	static unsigned int turn;

	return ring[turn++ % 16];
}

/* Bytes with three digits: "0 B", "1.50 MiB", "-12.3 GiB". */
const char *text_bytes_of(double bytes)
{
	static const char * const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double size = fabs(bytes);
	char *text = next_text();
	unsigned int unit = 0;

	if (isnan(bytes))
		return NOT_KNOWN;
	if (size < 1000) {
		snprintf(text, TEXT_SIZE, "%.0f B", bytes);
		return text;
	}
	/* What would be rounded to 1000 and more gets the next unit. */
	for (size /= 1024; size >= 999.5 && unit < 5; unit++)
		size /= 1024;
	snprintf(text, TEXT_SIZE, "%s%.*f %s", bytes < 0 ? "-" : "",
		 size < 9.995 ? 2 : size < 99.95 ? 1 : 0, size, units[unit]);
	return text;
}

const char *text_bytes(struct figure bytes)
{
	return bytes.err ? NOT_KNOWN : text_bytes_of(bytes.value);
}

/* A number with commas. */
const char *text_count(struct figure count)
{
	char digits[TEXT_SIZE / 2], *to = next_text();
	const char *text = to;
	size_t len;

	if (count.err)
		return NOT_KNOWN;
	len = snprintf(digits, sizeof(digits), "%lld", count.value);
	for (size_t i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0 && digits[i - 1] != '-')
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return text;
}

/* What is @value in units, a power of ten, that make one; all its digits: "0.05", "4". */
const char *text_exact(long long value, long long units)
{
	char *text = next_text();
	size_t len = snprintf(text, TEXT_SIZE, "%lld", value / units);

	value %= units;
	if (value)
		text[len++] = '.';
	for (; value; value %= units) {
		units /= 10;
		text[len++] = '0' + value / units;
	}
	text[len] = '\0';
	return text;
}

/* How long, in the two largest units that matter: "350 ms", "4.2 s", "3 h", "2 d 4 h", "1 y". */
const char *text_duration(double seconds)
{
	static const struct {
		const char *name;
		double seconds;
		double parts;
		const char *part;
	} units[] = {
		{ "y", 365 * 86400.0, 365, "d" },
		{ "d", 86400, 24, "h" },
		{ "h", 3600, 60, "min" },
		{ "min", 60, 60, "s" },
	};
	char *text = next_text();
	double part, whole;

	if (isnan(seconds))
		return NOT_KNOWN;
	if (!seconds)
		return "0 s";
	if (seconds < 0.001)
		return "under 1 ms";
	if (seconds < 0.9995) {
		snprintf(text, TEXT_SIZE, "%.0f ms", seconds * 1000);
		return text;
	}
	if (seconds < 59.5) {
		snprintf(text, TEXT_SIZE, seconds < 9.95 ? "%.2g s" : "%.0f s", seconds);
		return text;
	}
	for (unsigned int i = 0; i < 4; i++) {
		part = round(seconds / units[i].seconds * units[i].parts);
		whole = floor(part / units[i].parts);
		part -= whole * units[i].parts;
		if (whole < 1)
			continue;
		if (part && whole < 100)
			snprintf(text, TEXT_SIZE, "%.0f %s %.0f %s", whole, units[i].name, part,
				 units[i].part);
		else if (whole < 1000000)
			snprintf(text, TEXT_SIZE, "%.0f %s", whole, units[i].name);
		else
			snprintf(text, TEXT_SIZE, "%.1e %s", whole, units[i].name);
		break;
	}
	return text;
}

const char *text_percent(double share)
{
	char *text = next_text();

	if (isnan(share))
		return NOT_KNOWN;
	if (!share)
		return "0 %";
	if (share > 0 && share < 0.0001)
		return "< 0.01 %";
	snprintf(text, TEXT_SIZE, "%.*f %%", share < 0.01 ? 2 : share < 10 ? 1 : 0, share * 100);
	return text;
}

bool text_is_utf8(void)
{
	return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

/* What takes no room may change how others are shown, or cannot be seen. */
static bool is_plain(wchar_t c)
{
	return iswprint(c) && wcwidth(c) > 0 && c != '\\';
}

/**
 * text_escape - make a name safe for a terminal
 * @to: where to
 * @size: of @to, at least four bytes for each of @from, and one
 * @from: the name; its bytes may be any
 * @len: of @from
 *
 * What does not print or takes no room, and the backslash itself, becomes \xNN.
 */
void text_escape(char *to, size_t size, const char *from, size_t len)
{
	mbstate_t state = { 0 };
	wchar_t c;

	while (len && size > 4) {
		size_t used = mbrtowc(&c, from, len, &state);

		if (used && used <= len && used < size && is_plain(c)) {
			memcpy(to, from, used);
			to += used;
			size -= used;
		} else {
			memset(&state, 0, sizeof(state));
			used = 1;
			snprintf(to, size, "\\x%02x", (unsigned char)*from);
			to += 4;
			size -= 4;
		}
		from += used;
		len -= used;
	}
	*to = '\0';
}

/* Is @word a number of seconds from @least to @most, such as 0.5? */
bool text_seconds(const char *word, double least, double most, double *seconds)
{
	char *end;

	if (!*word || word[strspn(word, "0123456789.")])
		return false;
	*seconds = strtod(word, &end);
	return !*end && *seconds >= least && *seconds <= most;
}
