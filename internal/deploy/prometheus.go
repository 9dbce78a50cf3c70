package deploy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	prometheus "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// queryTimeout is how long a source of metrics may take, as Flagger has it.
const queryTimeout = 5 * time.Second

// errShape is why an answer is not taken.
var errShape = errors.New("the query gives no single number for each series: it must be an instant vector or a scalar")

// Prometheus asks a Prometheus server for the value of a query now. Nil is no value: an empty answer, or NaN. Of several
// series the last counts, as in Flagger.
func (o Outside) Prometheus(ctx context.Context, server, query string) (*float64, error) {
	transport := o.transport(false)
	defer transport.CloseIdleConnections()
	client, err := api.NewClient(api.Config{Address: server, RoundTripper: transport})
	if err != nil {
		return nil, fmt.Errorf("the URL of the metrics: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	answer, _, _, err := prometheus.NewAPI(client).Query(ctx, strings.Join(strings.Fields(query), " "), time.Now())
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, unwrapped(err, queryTimeout))
	}
	var value float64
	switch a := answer.(type) {
	case model.Vector:
		if len(a) == 0 {
			return nil, nil
		}
		value = float64(a[len(a)-1].Value)
	case *model.Scalar:
		value = float64(a.Value)
	default:
		return nil, errShape
	}
	if math.IsNaN(value) {
		return nil, nil
	}
	return &value, nil
}
