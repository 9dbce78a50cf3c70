package native

import (
	"context"
	"errors"
	"strings"

	"github.com/penstock-ci/penstock/internal/sandbox"
)

// semgrep is returntocorp/semgrep-action: it runs semgrep if the machine has it.
type semgrep struct{}

func (semgrep) Main(ctx context.Context, s *Step) error {
	if _, err := s.answer(ctx, s.workspace(), "semgrep", "--version"); err != nil {
		s.warning("Semgrep is not installed on this machine: NOTHING WAS SCANNED. Install it (pipx install semgrep, or pip install semgrep in a step before this one)")
		if s.variable("PENSTOCK_SEMGREP_REQUIRED") != "" {
			return errors.New("semgrep is not installed, and PENSTOCK_SEMGREP_REQUIRED is set")
		}
		return nil
	}
	args := []string{"semgrep", "scan", "--error", "--metrics=off"}
	for _, c := range strings.Fields(or(s.input("config"), "auto")) {
		args = append(args, "--config", c)
	}
	if s.loose("generateSarif") {
		args = append(args, "--sarif", "--output", "semgrep.sarif")
	}
	err := s.run(ctx, s.workspace(), args...)
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && exit.Code == 1 && s.loose("auditOn") {
		return nil
	}
	return err
}
