package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/labstack/echo/v4"
)

// The floor is what echo itself does with a constant of the same size; the rest is ours. What the database costs is
// measured by make bench.
func BenchmarkRequests(b *testing.B) {
	f := quiet(b)
	id := f.mustAdd(b, alice, `{"cid":"`+cidV0+`","name":"a name","origins":["`+origin+`"],"meta":{"app":"x"}}`)
	for range 20 {
		f.mustAdd(b, alice, `{"cid":"`+cidV0+`","name":"a name","origins":["`+origin+`"],"meta":{"app":"x"}}`)
	}
	static := echo.New()
	answer := f.do(alice, "GET", "/psa/pins/"+id, "").Body.Bytes()
	static.GET("/pins/:id", func(c echo.Context) error { return c.Blob(http.StatusOK, "application/json", answer) })

	for _, c := range []struct {
		name    string
		handler http.Handler
		path    string
	}{
		{"static", static, "/pins/" + id},
		{"get", f, "/psa/pins/" + id},
		{"list10", f, "/psa/pins?status=queued,pinned&limit=10"},
		{"count", f, "/psa/pins?status=pinned&limit=1"},
	} {
		b.Run("handler/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("GET", c.path, nil)
				r.Header.Set("Authorization", "Bearer "+alice)
				c.handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
		b.Run("socket/"+c.name, func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			srv := &http.Server{Handler: c.handler}
			go srv.Serve(ln)
			defer srv.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			defer client.CloseIdleConnections()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := fetch(b.Context(), client, "http://"+ln.Addr().String()+c.path); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func fetch(ctx context.Context, client *http.Client, target string) error {
	r, err := http.NewRequestWithContext(ctx, "GET", target, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+alice)
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
