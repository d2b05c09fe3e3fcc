// SPDX-License-Identifier: GPL-2.0-only
/*
 * dataset MIB > FILE: the demo's data set, as redis commands (RESP): SET of
 * values of 100 to 16,000 random bytes until they come to MIB MiB. Always the
 * same bytes, so that a run can be repeated.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define MIN_VALUE 100
#define MAX_VALUE 16000

static uint64_t state = 0x6b736d2064656d6fULL;

/* SplitMix64: short, and no two of its 64-bit words are equal in one run. */
static uint64_t next_random(void)
{
	uint64_t z = state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static size_t fill_value(uint64_t *words)
{
	size_t len = MIN_VALUE + next_random() % (MAX_VALUE - MIN_VALUE + 1);

	for (size_t i = 0; i * sizeof(*words) < len; i++)
		words[i] = next_random();
	return len;
}

static void put_command(unsigned int number, const void *value, size_t len)
{
	printf("*3\r\n$3\r\nSET\r\n$10\r\nkey:%06u\r\n$%zu\r\n", number, len);
	fwrite(value, 1, len, stdout);
	fputs("\r\n", stdout);
}

int main(int argc, char **argv)
{
	uint64_t words[MAX_VALUE / sizeof(uint64_t)];
	size_t wanted = argc == 2 ? strtoul(argv[1], NULL, 10) << 20 : 0;
	size_t done = 0;
	unsigned int number = 0;

	if (!wanted) {
		fprintf(stderr, "usage: dataset MIB > FILE\n");
		return 2;
	}
	while (done < wanted) {
		size_t len = fill_value(words);

		put_command(number++, words, len);
		done += len;
	}
	if (fflush(stdout) || ferror(stdout)) {
		perror("dataset");
		return 1;
	}
	return 0;
}
