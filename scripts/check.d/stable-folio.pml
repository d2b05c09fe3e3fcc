/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A stable node and its folio, in mm/ksm/stable.c, for spin: no reader finds a folio gone
 * that is there, and none takes a reference on what is not the node's. A folio migrates
 * MIGRATIONS times among FRAMES frames; in the swap cache it is frozen meanwhile. Reclaim
 * may free it between two migrations, or fail to.
 *
 * With LOCKLESS the PFN and the old folio's mapping word change one after the other, and
 * readers look without the lock of the root: that is wrong, and spin must say so.
 */
#define FRAMES		3
#ifndef MIGRATIONS
#define MIGRATIONS	3
#endif
#define READERS		2

byte pfn = 0;			/* of the node */
bool points[FRAMES];		/* the frame's mapping word points to the node */
byte refs[FRAMES];
bool swapcache[FRAMES];
bool alive = true;		/* the folio is somewhere */
bool root = false;		/* lock */

#ifdef LOCKLESS
#define lock()
#define unlock()
#else
#define lock()		atomic { !root -> root = true }
#define unlock()	root = false
#endif

/* Holds the folio's lock all the time, and a reference for the page table. */
proctype owner()
{
	byte old = 0, new, left = MIGRATIONS;

	do
	:: left > 0 ->
		left--;
		/* Into any frame that is free. */
		if
		:: atomic { refs[0] == 0 && !points[0] && old != 0 -> new = 0; refs[0] = 1 }
		:: atomic { refs[1] == 0 && !points[1] && old != 1 -> new = 1; refs[1] = 1 }
		:: atomic { refs[2] == 0 && !points[2] && old != 2 -> new = 2; refs[2] = 1 }
		fi;
		/* Fails as long as others hold a reference. */
		if
		:: atomic { refs[old] == 1 -> refs[old] = 0 };
			points[new] = true;
			swapcache[new] = true;
			refs[old] = 1
		:: atomic { refs[old] > 1 -> refs[new]-- };
			goto next
		fi;
		lock();
		pfn = new;
		points[old] = false;
		unlock();
		swapcache[old] = false;
		refs[old]--;
		old = new;
next:		skip
	:: true -> break
	od;
	/* Reclaim: is frozen, and comes back once, or goes. */
	if
	:: atomic { refs[old] == 1 -> refs[old] = 0 };
		if
		:: refs[old] = 1
		:: atomic { swapcache[old] = false; alive = false };
			points[old] = false
		fi
	:: true
	fi
}

proctype reader()
{
	byte frame;
	bool freed;

#ifdef LOCKLESS
again:	frame = pfn;
	freed = false;
	do
	:: !freed && points[frame] ->
		if
		:: atomic { refs[frame] > 0 -> refs[frame]++ };
			if
			:: points[frame] -> goto found
			:: else -> refs[frame]--; break
			fi
		:: refs[frame] == 0 -> freed = !swapcache[frame]
		fi
	:: else -> break
	od;
	if
	:: pfn != frame -> goto again
	:: else
	fi;
	if
	:: !points[frame] -> goto gone
	:: else
	fi;
	if
	:: freed && refs[frame] == 0 && !swapcache[frame] -> goto gone
	:: else -> goto again
	fi;
#else
	lock();
	frame = pfn;
	if
	:: !points[frame] -> goto gone
	:: else
	fi;
	if
	:: atomic { refs[frame] > 0 -> refs[frame]++ };
		if
		:: points[frame] -> goto found
		:: else -> refs[frame]--; goto gone
		fi
	/* Frozen, or being freed: to be asked again. */
	:: refs[frame] == 0 -> goto done
	fi;
#endif
gone:	assert(!alive);
	goto done;
found:
#ifndef LOCKLESS
	assert(alive && points[frame] && frame == pfn);
#endif
	unlock();
	refs[frame]--;
	goto end;
done:	unlock();
end:	skip
}

init
{
	byte i;

	atomic {
		points[0] = true;
		refs[0] = 1;
		swapcache[0] = true;
		run owner();
		for (i : 1 .. READERS) {
			run reader()
		}
	}
}
