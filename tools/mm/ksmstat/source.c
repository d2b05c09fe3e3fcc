// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where everything is read from and written to: the running kernel, or the tree of
 * files that the environment variable KSMSTAT_ROOT names.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ksmstat.h"

/* Puts the path with its root before it into @full; 0 or a negative errno. */
static int full_path(char full[PATH_MAX], const char *path)
{
	const char *root = getenv("KSMSTAT_ROOT");
	int len = snprintf(full, PATH_MAX, "%s%s", root ? root : "", path);

	return len < 0 || len >= PATH_MAX ? -ENAMETOOLONG : 0;
}

static int open_source(const char *path, int flags)
{
	char full[PATH_MAX];

	errno = -full_path(full, path);
	return errno ? -1 : open(full, flags | O_CLOEXEC | O_NOCTTY);
}

/* Why a file or directory is not there; 0 if it is. */
int source_missing(const char *path)
{
	char full[PATH_MAX];
	int err = full_path(full, path);

	if (err)
		return err;
	return access(full, F_OK) ? -errno : 0;
}

/* The directory, or NULL and errno. */
DIR *source_open_dir(const char *path)
{
	char full[PATH_MAX];

	errno = -full_path(full, path);
	return errno ? NULL : opendir(full);
}

/**
 * source_read - read a short file as a whole
 * @path: the file
 * @text: where to
 * @size: of @text; a file that does not fit is an error
 *
 * The last newline is left out. A NUL in it is an error, as the rest would be lost.
 *
 * Return: 0 or a negative errno.
 */
int source_read(const char *path, char *text, size_t size)
{
	int fd = open_source(path, O_RDONLY);
	size_t len = 0;
	ssize_t got;
	int err;

	if (fd < 0)
		return -errno;
	do {
		got = read(fd, text + len, size - len);
		if (got > 0)
			len += got;
	} while ((got > 0 && len < size) || (got < 0 && errno == EINTR));
	err = got < 0 ? -errno : 0;
	close(fd);
	if (err)
		return err;
	if (len == size)
		return -EFBIG;
	if (len && text[len - 1] == '\n')
		len--;
	text[len] = '\0';
	return strlen(text) == len ? 0 : NOT_A_NUMBER;
}

/* Opens a file that exists, to write to it; a file descriptor or a negative errno. */
int source_open_write(const char *path)
{
	int fd = open_source(path, O_WRONLY | O_TRUNC);

	return fd < 0 ? -errno : fd;
}

/**
 * source_write - write a value to a file
 * @fd: of the file, which is closed
 * @text: the value, which is written at once
 *
 * Return: 0 or a negative errno.
 */
int source_write(int fd, const char *text)
{
	char line[64];
	ssize_t done;
	int len, err;

	len = snprintf(line, sizeof(line), "%s\n", text);
	if (len < 0 || (size_t)len >= sizeof(line)) {
		close(fd);
		return -EINVAL;
	}
	done = write(fd, line, len);
	err = done < 0 ? -errno : done < len ? -EIO : 0;
	if (close(fd) && !err)
		err = -errno;
	return err;
}

/* The number that is all of a file. */
struct figure source_number(const char *path, bool may_be_negative)
{
	char text[SOURCE_TEXT];
	int err = source_read(path, text, sizeof(text));

	/* That it is too long for a number is all that matters. */
	if (err)
		return figure_unknown(err == -EFBIG ? NOT_A_NUMBER : err);
	return figure_parse(text, may_be_negative);
}

/**
 * source_line - the number in a line "NAME NUMBER" or "NAME: NUMBER kB"
 * @text: lines
 * @name: its first word, with the colon
 *
 * Return: the number, which may be negative; -ENOENT without such a line.
 */
struct figure source_line(const char *text, const char *name)
{
	size_t len = strlen(name);
	char word[32];

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, len) || !isblank((unsigned char)line[len]))
			continue;
		line += len + strspn(line + len, " \t");
		len = strcspn(line, "\n ");
		if (len >= sizeof(word))
			return figure_unknown(NOT_A_NUMBER);
		memcpy(word, line, len);
		word[len] = '\0';
		return figure_parse(word, true);
	}
	return figure_unknown(-ENOENT);
}
