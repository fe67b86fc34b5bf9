package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// A wire is one kept-alive connection to a server, over which requests go out as bytes that were made before; of an
// answer it reads what HTTP needs, the status and the length. Client and server share the processors: what a client
// spends on building requests and decoding answers would be counted as the server's.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
}

// wires are as many connections as there are clients.
type wires chan wire

// dial opens connections to a service.
func (s *service) dial(ctx context.Context, clients int) (wires, error) {
	base, err := url.Parse(s.base)
	if err != nil {
		return nil, err
	}
	ws := make(wires, clients)
	for range clients {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", base.Host)
		if err != nil {
			return nil, errors.Join(err, ws.close())
		}
		ws <- wire{conn, bufio.NewReader(conn)}
	}
	return ws, nil
}

// close ends all connections. None may be in use.
func (ws wires) close() error {
	var err error
	for len(ws) > 0 {
		w := <-ws
		err = errors.Join(err, w.conn.Close())
	}
	return err
}

// request makes the bytes of a request; a body of nil is none.
func (s *service) request(method, path string, body []byte) ([]byte, error) {
	base, err := url.Parse(s.base)
	if err != nil {
		return nil, err
	}
	b := fmt.Appendf(nil, "%s %s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n", method, base.Path, path, base.Host, s.token)
	if body != nil {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(body))
	}
	return append(append(b, "\r\n"...), body...), nil
}

// do sends a request over a connection that is free, and reads the answer to its end. Every status but 2xx is an error.
func (ws wires) do(request []byte) error {
	w := <-ws
	defer func() { ws <- w }()
	if _, err := w.conn.Write(request); err != nil {
		return err
	}
	return w.answer()
}

func (w wire) answer() error {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	status, ok := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !ok || len(status) < 3 {
		return fmt.Errorf("an answer begins with %q", line)
	}
	good, status := status[0] == '2', bytes.Clone(status[:3])
	length := -1
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= len("\r\n") {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer does not say how long it is")
	}
	if !good {
		body := make([]byte, min(length, 1024))
		_, err := w.in.Read(body)
		return errors.Join(fmt.Errorf("status %s: %s", status, body), err)
	}
	_, err = w.in.Discard(length)
	return err
}
