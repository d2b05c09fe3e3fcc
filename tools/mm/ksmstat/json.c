// SPDX-License-Identifier: GPL-2.0-only
/*
 * JSON's syntax: commas, indentation, strings. Unknown is null.
 */
#include <math.h>
#include <string.h>

#include "ksmstat.h"

static unsigned int depth;
static bool is_first = true;

/* Begins an item; @key is NULL in a list. */
static void begin(const char *key)
{
	if (!is_first)
		putchar(',');
	if (depth)
		printf("\n%*s", (int)(2 * depth), "");
	is_first = false;
	if (key)
		printf("\"%s\": ", key);
}

void json_open(const char *key, char bracket)
{
	begin(key);
	putchar(bracket);
	depth++;
	is_first = true;
}

void json_close(char bracket)
{
	depth--;
	if (!is_first)
		printf("\n%*s", (int)(2 * depth), "");
	putchar(bracket);
	is_first = false;
	if (!depth)
		putchar('\n');
}

void json_figure(const char *key, struct figure value)
{
	begin(key);
	if (value.err)
		printf("null");
	else
		printf("%lld", value.value);
}

void json_double(const char *key, double value)
{
	begin(key);
	if (isfinite(value))
		printf("%.6g", value);
	else
		printf("null");
}

/* Exact: a counter must not lose digits as it grows. */
void json_seconds(const char *key, struct figure ns)
{
	begin(key);
	fputs(ns.err ? "null" : text_exact(ns.value, NSEC_PER_SEC), stdout);
}

/* Not 0 is true. */
void json_truth(const char *key, struct figure value)
{
	begin(key);
	printf("%s", value.err ? "null" : value.value ? "true" : "false");
}

/*
 * How long is the UTF-8 character at the beginning of @s? 0 if there is none: overlong,
 * a surrogate, beyond U+10FFFF, or cut off.
 */
static size_t utf8_len(const unsigned char *s, size_t len)
{
	size_t need = *s < 0x80 ? 1 : *s < 0xc2 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 :
		      *s < 0xf5 ? 4 : 0;

	if (!need || need > len)
		return 0;
	for (size_t i = 1; i < need; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] > 0x9f) ||
	    (*s == 0xf0 && s[1] < 0x90) || (*s == 0xf4 && s[1] > 0x8f))
		return 0;
	return need;
}

/* Is it one of U+0080 to U+009F, which terminals may obey? */
static bool is_c1(const char *character, size_t len)
{
	return len == 2 && (unsigned char)character[0] == 0xc2 &&
	       (unsigned char)character[1] < 0xa0;
}

/* A byte that is not UTF-8 becomes the replacement character, U+FFFD. */
void json_bytes(const char *key, const char *bytes, size_t len)
{
	begin(key);
	putchar('"');
	while (len) {
		size_t used = utf8_len((const unsigned char *)bytes, len);

		if (!used)
			printf("\\ufffd");
		else if (*bytes == '"' || *bytes == '\\')
			printf("\\%c", *bytes);
		else if ((unsigned char)*bytes < 0x20 || *bytes == 0x7f)
			printf("\\u%04x", *bytes);
		else if (is_c1(bytes, used))
			printf("\\u%04x", (unsigned char)bytes[1]);
		else
			fwrite(bytes, 1, used, stdout);
		used = used ? used : 1;
		bytes += used;
		len -= used;
	}
	putchar('"');
}

void json_text(const char *key, const char *text)
{
	json_bytes(key, text, strlen(text));
}
