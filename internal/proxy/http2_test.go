package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func TestTLSAndHTTP2(t *testing.T) {
	addr := backendOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s %d", r.Header.Get("X-Forwarded-Proto"), r.Host, r.Header.Get("Cookie"), len(body))
		w.Header().Set("X-Sum", fmt.Sprint(len(body)))
	})
	p := start(t, Options{})
	rt := routeTo(addr)
	rt.Sticky = Sticky{Cookie: "penstock", MaxAge: time.Hour}
	p.set(t, rt)
	url, transport := p.startTLS(t)
	for _, two := range []bool{true, false} {
		var protocols http.Protocols
		protocols.SetHTTP1(!two)
		protocols.SetHTTP2(two)
		c := transport.Clone()
		c.Protocols, c.ForceAttemptHTTP2 = &protocols, two
		if !two {
			c.TLSClientConfig.NextProtos = nil
		}
		client := http.Client{Transport: c}
		for _, size := range []int{0, 10, 1_000_000} {
			r, _ := http.NewRequest("POST", url, strings.NewReader(strings.Repeat("x", size)))
			r.Host = "shop.example.com"
			r.Header.Set("Cookie", "a=b")
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if want := fmt.Sprintf("https shop.example.com a=b %d", size); string(body) != want || err != nil {
				t.Errorf("got %q, %v", body, err)
			}
			if res.ProtoMajor == 2 != two || res.Trailer.Get("X-Sum") != fmt.Sprint(size) {
				t.Errorf("got %s, trailers %v", res.Proto, res.Trailer)
			}
			cookie := res.Header.Get("Set-Cookie")
			if !strings.HasPrefix(cookie, "penstock=") || !strings.Contains(cookie, "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax") {
				t.Errorf("got cookie %q", cookie)
			}
		}
		c.CloseIdleConnections()
	}
}

// TestStopSendsGoAway has a client with many streams on one connection of HTTP/2, over TLS and in the clear, while the
// proxy ends.
func TestStopSendsGoAway(t *testing.T) {
	for _, clear := range []bool{false, true} {
		p := start(t, Options{IdleTimeout: time.Minute})
		a := startApp(t, 0)
		p.set(t, routeTo(a.addr))
		url, transport := p.url, (*http.Transport)(nil)
		var protocols http.Protocols
		if clear {
			protocols.SetUnencryptedHTTP2(true)
			transport = &http.Transport{}
		} else {
			protocols.SetHTTP2(true)
			url, transport = p.startTLS(t)
		}
		transport.Protocols = &protocols
		client := http.Client{Transport: transport}
		get := func() error {
			res, err := client.Get(url)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); string(body) != "app 0" || res.ProtoMajor != 2 {
				return fmt.Errorf("got %s %q, %v", res.Proto, body, err)
			}
			return nil
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for !p.ending.Load() {
					if err := get(); err != nil && !errors.Is(err, net.ErrClosed) && !p.ending.Load() {
						t.Error(err)
					}
				}
			})
		}
		until(t, func() bool { return p.Collect()[1].Requests[2] > 100 })
		// No context ends it: the connections end since they were told to go away.
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		all.Wait()
		transport.CloseIdleConnections()
	}
}

// counting answers a call of health checks, and streams as many as were asked for.
func startGRPC(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	h := health.NewServer()
	h.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(s, h)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		h.Shutdown()
		s.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

func TestGRPC(t *testing.T) {
	p := start(t, Options{})
	dead, live := nobody(t), startGRPC(t)
	rt := routeTo(dead, live)
	rt.GRPC = true
	p.set(t, rt)
	conn, err := grpc.NewClient(p.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := grpc_health_v1.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for range 20 {
		res, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
		if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Fatalf("got %v, %v", res, err)
		}
	}
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	// A stream goes on while the table changes, and keeps its backend from being drained.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := client.Watch(watching, &grpc_health_v1.HealthCheckRequest{Service: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v", res, err)
	}
	rt.Pools = []Pool{pool1("r2", 1, dead)}
	p.set(t, rt)
	short, cancel2 := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel2()
	if err := p.Drained(short, live); err == nil {
		t.Error("drained with an open stream")
	}
	stop()
	if err := p.Drained(ctx, live); err != nil {
		t.Error(err)
	}
	if _, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "shop"}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no instance of this service can be connected to") {
		t.Errorf("got %v", err)
	}
}
