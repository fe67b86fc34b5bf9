//go:build cgo && linux

package hot

/*
#include <malloc.h>

static void few_arenas(int most) {
#ifdef __GLIBC__
	mallopt(M_ARENA_MAX, most);
#endif
}
*/
import "C"

// fewArenas keeps glibc from giving threads arenas of their own. Pebble takes the room for what it reads from C, blocks
// are large, and Go moves from thread to thread: each arena would keep what was freed in it, some 15 MB together while
// a DAG is read.
func fewArenas() { C.few_arenas(1) }
