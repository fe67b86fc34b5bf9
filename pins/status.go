package pins

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/frostpin/frostpin/spec"
)

// StatusOf derives the API's status. Nothing else decides it: the copy in a pin's row is written by this function in
// the transaction that changes the root.
func StatusOf(hot Hot) spec.Status {
	switch hot {
	case HotQueued, HotReleasing: // releasing: a pin that arrives meanwhile moves the root back to queued
		return spec.Queued
	case HotFetching:
		return spec.Pinning
	case HotHeld:
		return spec.Pinned
	case HotGaveUp:
		return spec.Failed
	}
	return spec.Queued
}

// Status is the pin's status in the API.
func (p Pin) Status() spec.Status { return StatusOf(p.DAG.Hot) }

// Info is what the API tells about the pin beyond its status: `status_details`, `hot_status`, `dag_size` and
// `dag_blocks` once known, and `origins_dropped`. Never nil.
func (p Pin) Info() map[string]string {
	d := p.DAG
	info := map[string]string{"hot_status": string(d.Hot), "status_details": d.details()}
	if d.Hot == HotHeld {
		info["dag_size"] = strconv.FormatInt(d.Bytes, 10)
		info["dag_blocks"] = strconv.FormatInt(d.Blocks, 10)
	}
	if p.Dropped > 0 {
		info["origins_dropped"] = strconv.Itoa(p.Dropped)
	}
	return info
}

// details says in words how the DAG stands.
func (d DAG) details() string {
	var b strings.Builder
	switch d.Hot {
	case HotQueued, HotReleasing:
		b.WriteString("waiting for the root block")
	case HotFetching:
		fmt.Fprintf(&b, "fetching: %d blocks, %d bytes so far", d.Blocks, d.Bytes)
	case HotHeld:
		b.WriteString("held: the whole DAG is stored and verified")
	case HotGaveUp:
		b.WriteString("gave up")
	}
	if d.Reason != "" {
		b.WriteString("; ")
		b.WriteString(d.Reason)
	}
	if (d.Hot == HotQueued || d.Hot == HotFetching) && d.Attempts > 0 {
		fmt.Fprintf(&b, "; %d tries, next at %s", d.Attempts, d.NextAt.UTC().Format(time.RFC3339))
	}
	return b.String()
}
