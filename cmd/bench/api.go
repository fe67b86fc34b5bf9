package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"gorm.io/gorm"

	"github.com/frostpin/frostpin/cmd/database"
	"github.com/frostpin/frostpin/pins/pinstest"
	"github.com/frostpin/frostpin/spec"
)

// idle measures the memory of a server that has nothing to do.
func (b *bench) idle(ctx context.Context) error {
	s, err := b.fresh(ctx, "idle")
	if err != nil {
		return err
	}
	if err := pause(ctx, 10*time.Second); err != nil {
		return err
	}
	mb, err := rssMB(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	absolute("idle memory", "MB", mb, atMost(160))
	return s.stop()
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

const (
	postClients = 64
	getClients  = 16

	batchClients = 4
	batchSize    = 1000
)

// post measures durable POST /pins beside inserts through the same driver into a table of nine columns and four
// indexes, one transaction each and grouped, and beside an echo handler that only inserts, grouped: what HTTP and the
// client leave of the processors is in that floor as it is in POST. Pins that come in lists are beside grouped inserts.
func (b *bench) post(ctx context.Context) error {
	long := 10 * time.Second / time.Duration(b.scale)
	single, grouped, err := b.inserts(ctx, long/2)
	if err != nil {
		return err
	}
	served, err := b.inserting(ctx, long)
	if err != nil {
		return err
	}
	s, err := b.fresh(ctx, "post")
	if err != nil {
		return err
	}
	posts, err := s.posts(ctx, long)
	if err != nil {
		return err
	}
	ratio("POST /pins, 64 clients, against single-row inserts", "/s", posts, single, atLeast(2))
	ratio("POST /pins, 64 clients, against grouped inserts", "/s", posts, grouped, atLeast(0.6))
	ratio("POST /pins, 64 clients, against an echo handler with grouped inserts", "/s", posts, served, atLeast(0.6))
	noted("that handler against grouped inserts without HTTP", "/s", served, grouped)
	batched, err := s.batches(ctx, long)
	if err != nil {
		return err
	}
	ratio("pins by POST /api/v1/pins/batch, lists of 1000, 4 clients, against grouped inserts", "/s", batched, grouped, atLeast(0.6))
	return s.stop()
}

// posts returns the rate of POST /pins, each of one pin.
func (s *service) posts(ctx context.Context, long time.Duration) (float64, error) {
	// What clients send is made before the clock starts, and what they get is not decoded: the floors have no client.
	requests := make([][]byte, 25_000*int(long.Seconds()))
	for i := range requests {
		name := fmt.Sprint("post ", i)
		body, err := json.Marshal(spec.Pin{Cid: pinstest.Leaf(name).Root.String(), Name: &name})
		if err != nil {
			return 0, err
		}
		if requests[i], err = s.request(http.MethodPost, "/pins", body); err != nil {
			return 0, err
		}
	}
	clients, err := s.dial(ctx, postClients)
	if err != nil {
		return 0, err
	}
	posts, err := rate(ctx, postClients, long, 0, func(_ context.Context, i int64) error { return clients.do(requests[i]) })
	if err != nil {
		return 0, err
	}
	return posts, clients.close()
}

// batches returns the pins in a second that come in lists.
func (s *service) batches(ctx context.Context, long time.Duration) (float64, error) {
	own := *s
	own.base = strings.TrimSuffix(s.base, "/psa") + "/api/v1"
	requests := make([][]byte, 50*int(long.Seconds()))
	for i := range requests {
		list := make([]spec.Pin, batchSize)
		for j := range list {
			name := fmt.Sprint("batch ", i, " ", j)
			list[j] = spec.Pin{Cid: pinstest.Leaf(name).Root.String(), Name: &name}
		}
		body, err := json.Marshal(list)
		if err != nil {
			return 0, err
		}
		if requests[i], err = own.request(http.MethodPost, "/pins/batch", body); err != nil {
			return 0, err
		}
	}
	clients, err := own.dial(ctx, batchClients)
	if err != nil {
		return 0, err
	}
	before, err := s.count(ctx)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	if _, err := rate(ctx, batchClients, long, 0, func(_ context.Context, i int64) error { return clients.do(requests[i]) }); err != nil {
		return 0, err
	}
	took := time.Since(started)
	after, err := s.count(ctx)
	if err != nil {
		return 0, err
	}
	return float64(after-before) / took.Seconds(), clients.close() // a list is answered 200 whatever became of its pins
}

// count returns the number of pins in any state.
func (s *service) count(ctx context.Context) (int64, error) {
	var page struct{ Count int64 }
	_, err := s.do(ctx, http.MethodGet, "/pins?limit=1&status=queued,pinning,pinned,failed", nil, &page)
	return page.Count, err
}

// floorRow is a row of nine columns in a table with four indexes.
type floorRow struct {
	A string `gorm:"primaryKey"`
	B int64  `gorm:"uniqueIndex:floor_bc,priority:1;index:floor_bdc,priority:1;index:floor_be,priority:1"`
	C int64  `gorm:"uniqueIndex:floor_bc,priority:2;index:floor_bdc,priority:3"`
	D string `gorm:"index:floor_bdc,priority:2"`
	E string `gorm:"index:floor_be,priority:2"`
	F string
	G string
	H string
	I int64
}

// openFloor makes a database of floor rows.
func openFloor(ctx context.Context, path string) (*database.DB, error) {
	db, err := database.Open(ctx, path, discard())
	if err != nil {
		return nil, err
	}
	return db, db.Write(ctx, func(tx *gorm.DB) error { return tx.AutoMigrate(&floorRow{}) })
}

// insertFloor inserts the kth row, durably.
func insertFloor(ctx context.Context, db *database.DB, k int64) error {
	cid := pinstest.Leaf(fmt.Sprint("floor ", k)).Root.String()
	row := floorRow{A: fmt.Sprintf("%036d", k), B: 1, C: k, D: "queued", E: cid, F: cid, G: fmt.Sprint("post ", k), I: k}
	return db.Write(ctx, func(tx *gorm.DB) error { return tx.Create(&row).Error })
}

// inserts returns the durable rates of gorm and the driver at 64 goroutines: each row its own transaction, and
// grouped as they wait.
func (b *bench) inserts(ctx context.Context, long time.Duration) (single, grouped float64, err error) {
	for i, out := range []*float64{&single, &grouped} {
		db, err := openFloor(ctx, filepath.Join(b.dir, fmt.Sprintf("floor%d.db", i)))
		if err != nil {
			return 0, 0, err
		}
		var alone chan struct{} // with it, one Write at a time: nothing to share a commit with
		if i == 0 {
			alone = make(chan struct{}, 1)
		}
		*out, err = rate(ctx, postClients, long, 0, func(ctx context.Context, k int64) error {
			if alone != nil {
				alone <- struct{}{}
				defer func() { <-alone }()
			}
			return insertFloor(ctx, db, k)
		})
		if err != nil {
			return 0, 0, err
		}
		if err := db.Close(); err != nil {
			return 0, 0, err
		}
	}
	return single, grouped, nil
}

// get measures reads beside a static echo handler that answers as many bytes.
func (b *bench) get(ctx context.Context) error {
	long := 8 * time.Second / time.Duration(b.scale)
	s, err := b.fresh(ctx, "get")
	if err != nil {
		return err
	}
	var ids []string
	for i := range 1000 {
		name := fmt.Sprint("get ", i)
		p, err := s.pin(ctx, spec.Pin{Cid: pinstest.Identity(0x55, []byte(name)).String(), Name: &name})
		if err != nil {
			return err
		}
		ids = append(ids, p.Requestid)
	}
	floor, err := b.static(ctx, "")
	if err != nil {
		return err
	}
	get := func(s *service, path func(i int64) string) func(context.Context, int64) error {
		return func(ctx context.Context, i int64) error {
			_, err := s.do(ctx, http.MethodGet, path(i), nil, nil)
			return err
		}
	}
	for _, read := range []struct {
		what string
		path func(i int64) string
		goal float64
	}{
		{"GET /pins/{id}", func(i int64) string { return "/pins/" + ids[i%1000] }, 0.4},
		{"GET /pins, 10 rows", func(int64) string { return "/pins" }, 0.2},
	} {
		var answer json.RawMessage
		if _, err := s.do(ctx, http.MethodGet, read.path(0), nil, &answer); err != nil {
			return err
		}
		static, err := rate(ctx, getClients, long, 0, get(floor, func(int64) string { return fmt.Sprint("/pins/", len(answer)) }))
		if err != nil {
			return err
		}
		measured, err := rate(ctx, getClients, long, 0, get(s, read.path))
		if err != nil {
			return err
		}
		ratio(read.what+", 16 clients, against a static handler of as many bytes", "/s", measured, static, atLeast(read.goal))
	}
	if err := floor.stop(); err != nil {
		return err
	}
	return s.stop()
}

// inserting returns the rate of POST /pins of an echo handler that reads the request, inserts a row as inserts does and
// answers.
func (b *bench) inserting(ctx context.Context, long time.Duration) (float64, error) {
	s, err := b.static(ctx, filepath.Join(b.dir, "inserting.db"))
	if err != nil {
		return 0, err
	}
	posts, err := s.posts(ctx, long)
	if err != nil {
		return 0, err
	}
	return posts, s.stop()
}

// static starts a server of the floors in a process of its own. db is where POST inserts, "" for nowhere.
func (b *bench) static(ctx context.Context, db string) (*service, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	s := &service{cmd: exec.CommandContext(ctx, self, "-static", address, "-inserts", db), base: "http://" + address, http: newClient(128)}
	if err := b.begin(s.cmd); err != nil {
		return nil, err
	}
	return s, s.ready(ctx)
}

// pinAnswer is about as many bytes as POST /pins answers.
const pinAnswer = 400

// serveStatic serves the floors: echo, and bytes that were made before. Unless path is "", POST inserts a row there first.
func serveStatic(ctx context.Context, address, path string) error {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	body := bytes.Repeat([]byte("0"), 1<<20)
	answer := func(c echo.Context) error {
		n, err := strconv.Atoi(c.Param("bytes"))
		if err != nil || n > len(body) {
			n = 1
		}
		return c.Blob(http.StatusOK, echo.MIMEApplicationJSON, body[:n])
	}
	e.GET("/pins", answer)
	e.GET("/pins/:bytes", answer)
	if path != "" {
		db, err := openFloor(ctx, path)
		if err != nil {
			return err
		}
		defer db.Close()
		var k atomic.Int64
		e.POST("/pins", func(c echo.Context) error {
			if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
				return err
			}
			if err := insertFloor(c.Request().Context(), db, k.Add(1)); err != nil {
				return err
			}
			return c.Blob(http.StatusAccepted, echo.MIMEApplicationJSON, body[:pinAnswer])
		})
	}
	go func() {
		<-ctx.Done()
		_ = e.Close()
	}()
	if err := e.Start(address); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}
