package deploy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Probe asks a URL until it is well: GET answered by 2xx, or by 3xx, which is not followed. It asks at most retries times,
// interval apart, each for at most timeout, and gives the last error, which says what came instead. progress, if not nil,
// is told of each failed try but the last: which it was, of how many, and why. With statuses in expect, only they are well.
func Probe(ctx context.Context, address string, interval, timeout time.Duration, retries int, progress func(try, of int, err error), expect ...int) error {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is no URL to ask: write it as https://example.com/health", address)
	}
	if retries < 1 {
		retries = 1
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: dialing(&net.Dialer{}),
			Proxy:       http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for try := 1; ; try++ {
		err := probeOnce(ctx, client, u, timeout, expect)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == retries {
			return fmt.Errorf("after %d %s: %w", try, tries(try), err)
		}
		if progress != nil {
			progress(try, retries, err)
		}
		if err := pause(ctx, interval); err != nil {
			return err
		}
	}
}

// dialing connects as browsers and curl do: names below localhost are this machine, whatever a resolver says (RFC 6761).
func dialing(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, port, err := net.SplitHostPort(address); err == nil && strings.HasSuffix(strings.TrimSuffix(strings.ToLower(host), "."), ".localhost") {
			address = net.JoinHostPort("localhost", port)
		}
		return d.DialContext(ctx, network, address)
	}
}

func tries(n int) string {
	if n == 1 {
		return "try"
	}
	return "tries"
}

func probeOnce(ctx context.Context, client *http.Client, u *url.URL, timeout time.Duration, expect []int) error {
	asking, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := client.Do(req)
	switch {
	case err != nil && asking.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("GET %s gave no answer within %s", u.Redacted(), timeout)
	case err != nil:
		return fmt.Errorf("GET %s: %w", u.Redacted(), cause(err))
	}
	defer resp.Body.Close()
	switch {
	case len(expect) == 0:
		return wellAnswered(resp, u.Redacted())
	case !slices.Contains(expect, resp.StatusCode):
		return answered(resp, u.Redacted())
	}
	return nil
}
