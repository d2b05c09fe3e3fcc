// SPDX-License-Identifier: GPL-2.0-only
/* Ways to write to pages, and to hold them; see ksm_torture.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

/* Some contents are held by many pages, of all processes; few are the only ones. */
static unsigned int any_content(struct torture_self *self)
{
	unsigned long kind = torture_below(&self->random, 10);

	if (kind == 0)
		return 0;
	if (kind < 6)
		return torture_below(&self->random, 4) * TORTURE_VARIANTS;
	return torture_below(&self->random, kind < 9 ? 24 : TORTURE_CONTENTS);
}

/* Are there pages that mprotect() may have shut? Then they are open now. */
bool torture_open_up(struct torture_self *self, size_t first, size_t count)
{
	uint8_t flags = 0;

	for (size_t i = first; i < first + count; i++)
		flags |= self->page[i].flags;
	if (!(flags & (PAGE_NO_READ | PAGE_NO_WRITE)))
		return true;
	if (mprotect(torture_at(self, first), count * psize(), PROT_READ | PROT_WRITE))
		return false;
	for (size_t i = first; i < first + count; i++)
		self->page[i].flags &= ~(PAGE_NO_READ | PAGE_NO_WRITE);
	return true;
}

/* ---- writes ---- */

static void store_page(struct torture_self *self, size_t page, unsigned int content)
{
	memcpy(torture_at(self, page), torture_content(content), psize());
	torture_put(self, page, content);
}

/* Known content for pages of which it is not known what they hold. */
void torture_store(struct torture_self *self, size_t first, size_t count)
{
	if (!torture_open_up(self, first, count)) {
		self->hopeless = true;
		return;
	}
	for (size_t i = first; i < first + count; i++)
		store_page(self, i, any_content(self));
}

int torture_job_store(struct torture_self *self, size_t first, size_t count, int arg)
{
	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	torture_store(self, first, count);
	return 0;
}

int torture_job_store_same(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content = any_content(self);

	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	for (size_t i = first; i < first + count; i++)
		store_page(self, i, content);
	return 0;
}

static void copy_word(char *to, unsigned int content, size_t word)
{
	const uint64_t *from = (const uint64_t *)torture_content(content);

	__atomic_store_n((uint64_t *)to + word, from[word], __ATOMIC_RELAXED);
}

/* One word is changed, or two: the page becomes one that is like it. */
int torture_job_store_word(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int variant = torture_below(&self->random, TORTURE_VARIANTS);

	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	for (size_t i = first; i < first + count; i++) {
		unsigned int old = self->page[i].content;
		unsigned int content = old / TORTURE_VARIANTS * TORTURE_VARIANTS + variant;

		if (self->page[i].flags & PAGE_MAYBE) {
			store_page(self, i, content);
			continue;
		}
		copy_word(torture_at(self, i), content, torture_odd_word(old));
		copy_word(torture_at(self, i), content, torture_odd_word(content));
		torture_put(self, i, content);
	}
	return 0;
}

/* What is told of pages that a call was to write, of which it wrote @done bytes. */
static int written(struct torture_self *self, size_t first, size_t count,
		   const unsigned int *content, ssize_t done)
{
	size_t whole = done < 0 ? 0 : done / psize();
	int error = done < 0 ? -errno : 0;

	for (size_t i = 0; i < whole; i++)
		torture_put(self, first + i, content[i]);
	if (whole == count)
		return 0;
	torture_store(self, first + whole, 1);
	return error ? error : -EAGAIN;
}

/* Draws contents, and says where they are. */
static void source(struct torture_self *self, size_t count, unsigned int *content,
		   struct iovec *from)
{
	for (size_t i = 0; i < count; i++) {
		content[i] = any_content(self);
		from[i].iov_base = (char *)torture_content(content[i]);
		from[i].iov_len = psize();
	}
}

static ssize_t write_remote(pid_t pid, struct iovec *from, size_t count, char *to)
{
	struct iovec remote = { to, count * psize() };

	return process_vm_writev(pid, from, count, &remote, 1, 0);
}

int torture_job_process_vm(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content[TORTURE_VECTOR];
	struct iovec from[TORTURE_VECTOR];

	source(self, count, content, from);
	if (torture_below(&self->random, 4) && !torture_open_up(self, first, count))
		return -ENOMEM;
	return written(self, first, count, content,
		       write_remote(getpid(), from, count, torture_at(self, first)));
}

/* A child shares all pages, and writes to its parent's. */
int torture_job_written_by_child(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content[TORTURE_VECTOR];
	struct iovec from[TORTURE_VECTOR];
	pid_t parent = getpid(), pid;
	int status;

	source(self, count, content, from);
	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		_exit(write_remote(parent, from, count, torture_at(self, first)) !=
		      (ssize_t)(count * psize()));
	if (waitpid(pid, &status, 0) == pid && !status)
		return written(self, first, count, content, count * psize());
	torture_store(self, first, count);
	return -ECHILD;
}

/* Goes through mprotect(), as debuggers do. */
int torture_job_proc_mem(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content[TORTURE_VECTOR];
	struct iovec from[TORTURE_VECTOR];

	source(self, count, content, from);
	return written(self, first, count, content,
		       pwritev(self->mem, from, count, (uintptr_t)torture_at(self, first)));
}

int torture_job_read_file(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content[TORTURE_VECTOR], from;

	from = torture_below(&self->random, TORTURE_CONTENTS - TORTURE_VECTOR);
	for (size_t i = 0; i < count; i++)
		content[i] = from + i;
	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	return written(self, first, count, content,
		       pread(torture_file, torture_at(self, first), count * psize(),
			     torture_content_offset(from)));
}

/* A pipe with contents in it; 0 or -errno. */
static int fill_pipe(struct torture_self *self, int pipes[2], size_t count,
		     unsigned int *content)
{
	struct iovec from[TORTURE_PIPE];

	source(self, count, content, from);
	if (pipe2(pipes, O_CLOEXEC))
		return -errno;
	if (writev(pipes[1], from, count) == (ssize_t)(count * psize()))
		return 0;
	close(pipes[0]);
	close(pipes[1]);
	return -EAGAIN;
}

int torture_job_read_pipe(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content[TORTURE_PIPE];
	int pipes[2], error;

	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	error = fill_pipe(self, pipes, count, content);
	if (error)
		return error;
	error = written(self, first, count, content,
			read(pipes[0], torture_at(self, first), count * psize()));
	close(pipes[0]);
	close(pipes[1]);
	return error;
}

/* ---- pins ---- */

static void unpin(struct torture_self *self)
{
	if (self->pin_pages)
		ksm_ring_unpin(&self->ring);
	self->pin_pages = 0;
	for (size_t i = 0; i < self->pages; i++)
		self->page[i].flags &= ~PAGE_PINNED;
}

int torture_job_pin(struct torture_self *self, size_t first, size_t count, int arg)
{
	int error = self->ring.sqe ? 0 : ksm_ring_open(&self->ring);

	if (error) {
		self->ring.sqe = NULL;
		return error == -EINVAL ? -EOPNOTSUPP : error;
	}
	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	unpin(self);
	error = ksm_ring_pin(&self->ring, torture_at(self, first), count);
	if (error)
		return error;
	self->pin_first = first;
	self->pin_pages = count;
	for (size_t i = first; i < first + count; i++)
		self->page[i].flags |= PAGE_PINNED;
	return 0;
}

int torture_job_unpin(struct torture_self *self, size_t first, size_t count, int arg)
{
	if (!self->pin_pages)
		return -ENOENT;
	unpin(self);
	return 0;
}

/* Into a page that was pinned some time ago, without its page table. */
int torture_job_write_pinned(struct torture_self *self, size_t first, size_t count, int arg)
{
	unsigned int content;
	int pipes[2], error;
	size_t page;

	page = self->pin_first + (self->pin_pages ? first % self->pin_pages : 0);
	if (!self->pin_pages || !(self->page[page].flags & PAGE_PINNED))
		return -ENOENT;
	error = fill_pipe(self, pipes, 1, &content);
	if (error)
		return error;
	error = ksm_ring_read(&self->ring, pipes[0], torture_at(self, page), 1);
	close(pipes[0]);
	close(pipes[1]);
	if (error)
		torture_store(self, page, 1);
	else
		torture_put(self, page, content);
	return error;
}

static void let_go(struct torture_self *self)
{
	if (self->held[0] < 0)
		return;
	close(self->held[0]);
	close(self->held[1]);
	self->held[0] = -1;
}

/* What comes out of a pipe is what the page held, whatever it is by then. */
static bool comes_out(struct torture_self *self, size_t page)
{
	const struct torture_page *model = &self->page[page];
	char found[psize()];

	if (read(self->held[0], found, psize()) != (ssize_t)psize() ||
	    model->flags & PAGE_MAYBE ||
	    !memcmp(found, torture_content(model->content), psize()))
		return true;
	torture_fail("page %zu: what came out of a pipe is not content %u; seed %llu worker %u",
		     page, model->content, (unsigned long long)torture->seed, self->proc->worker);
	return false;
}

/* The pipe is read, or holds the pages until the next time. */
int torture_job_vmsplice(struct torture_self *self, size_t first, size_t count, int arg)
{
	struct iovec from = { torture_at(self, first), count * psize() };
	bool keep = torture_below(&self->random, 2);
	ssize_t done;

	let_go(self);
	if (!torture_open_up(self, first, count))
		return -ENOMEM;
	if (pipe2(self->held, O_CLOEXEC | O_NONBLOCK)) {
		self->held[0] = -1;
		return -errno;
	}
	done = vmsplice(self->held[1], &from, 1, 0);
	if (done < 0)
		return -errno;
	for (size_t i = 0; !keep && i < done / psize(); i++)
		if (!comes_out(self, first + i))
			break;
	if (!keep)
		let_go(self);
	return 0;
}
