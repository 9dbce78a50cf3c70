package deploy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/penstock-ci/penstock/internal/cd"
)

const (
	// maxSaid bounds what is read of an answer, bytes.
	maxSaid = 4 << 10
	// maxRetries bounds how often a webhook is called again, whatever its file says.
	maxRetries = 10
	// retryPause is the first pause between two calls; it doubles, up to maxRetryPause.
	retryPause    = time.Second
	maxRetryPause = 30 * time.Second
)

// Outside reaches servers that repositories name: webhooks and sources of metrics. It keeps them from what is this machine's
// own: whoever may write a penstock.yaml may not speak to the machine's loopback or to its cloud's metadata by it.
type Outside struct {
	// Allow are addresses that are reached although they are this machine's own: the server's, the proxy's, and what its
	// operator names.
	Allow []netip.AddrPort
}

// own are networks that are nobody else's business.
// https://www.iana.org/assignments/iana-ipv4-special-registry https://www.iana.org/assignments/iana-ipv6-special-registry
var own = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::/32"), // metadata of Amazon's machines
}

// errOwn is why an address is not called.
var errOwn = errors.New("this address is the machine's own: the server's operator may allow it by serve --allow-local HOST:PORT")

// control looks at the address that a name has led to, when it is connected to: what a name leads to now counts.
func (o Outside) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	for _, a := range o.Allow {
		if a == to || a.Addr() == to.Addr() && a.Port() == 0 {
			return nil
		}
	}
	for _, p := range own {
		if p.Contains(to.Addr().WithZone("")) {
			return errOwn
		}
	}
	return nil
}

// transport makes requests within the rules, without a proxy of the environment's, which would make them for us.
func (o Outside) transport(insecure bool) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: o.control}
	return &http.Transport{DialContext: dialing(dialer), DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: insecure}} //nolint:gosec // disableTLS of a manifest asks for it
}

// Webhook calls a webhook as Flagger does: the payload by POST, and an answer of at most 202 is a success; 204 is none. What
// it gives is told to people. https://docs.flagger.app/usage/webhooks
func (o Outside) Webhook(ctx context.Context, w *cd.Webhook, payload map[string]any) (ok bool, said string, err error) {
	if u, err := url.Parse(w.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return false, "", fmt.Errorf("%q is no http or https URL", w.URL)
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return false, "", err
	}
	transport := o.transport(w.DisableTLS)
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for try, pause := 0, retryPause; ; try, pause = try+1, min(2*pause, maxRetryPause) {
		status, text, err := post(ctx, client, w, body)
		ended := ctx.Err() != nil || try >= min(w.Retries, maxRetries) || errors.Is(err, errOwn)
		again := err != nil || status >= 500 && status != http.StatusNotImplemented || status == http.StatusTooManyRequests
		if again && !ended {
			select {
			case <-time.After(pause):
				continue
			case <-ctx.Done():
			}
		}
		if err != nil {
			return false, "", err
		}
		return status <= http.StatusAccepted, fmt.Sprintf("%d %s", status, text), nil
	}
}

func post(ctx context.Context, client *http.Client, w *cd.Webhook, body []byte) (status int, text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return 0, "", unwrapped(err, w.Timeout)
	}
	defer res.Body.Close()
	said, err := io.ReadAll(io.LimitReader(res.Body, maxSaid))
	return res.StatusCode, strings.TrimSpace(string(said)), err
}

// unwrapped is why a request was not answered, without its URL, which may have a token.
func unwrapped(err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", timeout)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}
