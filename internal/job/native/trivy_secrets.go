package native

import (
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
)

// secretRules are gitleaks' own. They are compiled when they are first needed: it takes longer than all else a run does.
var secretRules = sync.OnceValues(func() (*config.Config, error) {
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(config.DefaultConfig)); err != nil {
		return nil, err
	}
	var raw config.ViperConfig
	if err := v.Unmarshal(&raw); err != nil {
		return nil, err
	}
	c, err := raw.Translate()
	return &c, err
})

// scanSecrets finds what looks like a secret. It never gives the secret itself.
func scanSecrets(name string, text []byte) (found []problem) {
	rules, err := secretRules()
	if err != nil {
		panic(err) // gitleaks' own rules: a test reads them
	}
	if allowedPath(rules.Allowlists, name) {
		return nil
	}
	lower := strings.ToLower(string(text))
	for _, id := range rules.OrderedRules {
		rule := rules.Rules[id]
		if rule.Regex == nil || rule.Path != nil && !rule.Path.MatchString(name) || !hasKeyword(rule.Keywords, lower) || allowedPath(rule.Allowlists, name) {
			continue
		}
		for _, at := range rule.Regex.FindAllStringSubmatchIndex(string(text), 1000) {
			if secret := secretOf(rule, text, at); secret != "" && !allowed(append(rules.Allowlists, rule.Allowlists...), secret, string(text[at[0]:at[1]])) {
				found = append(found, problem{Kind: "secret", Rule: id, Severity: "CRITICAL", Title: rule.Description, File: name, Line: lineOf(text, at[0])})
			}
		}
	}
	special := map[int]bool{} // lines that a rule of their own says something of: the general one need not
	for _, p := range found {
		special[p.Line] = special[p.Line] || !strings.HasPrefix(p.Rule, "generic")
	}
	return slices.DeleteFunc(found, func(p problem) bool { return strings.HasPrefix(p.Rule, "generic") && special[p.Line] })
}

func hasKeyword(keywords []string, lower string) bool {
	if len(keywords) == 0 {
		return true
	}
	for _, k := range keywords {
		if strings.Contains(lower, strings.ToLower(k)) {
			return true
		}
	}
	return false
}

// secretOf is the part of a match that is the secret; empty if it is too regular to be one.
func secretOf(rule config.Rule, text []byte, at []int) string {
	group := rule.SecretGroup
	if group == 0 && len(at) > 2 { // the first group that matched, as gitleaks does
		for g := 1; 2*g+1 < len(at); g++ {
			if at[2*g] >= 0 && at[2*g] < at[2*g+1] {
				group = g
				break
			}
		}
	}
	if 2*group+1 >= len(at) || at[2*group] < 0 {
		return ""
	}
	secret := string(text[at[2*group]:at[2*group+1]])
	if rule.Entropy != 0 && entropy(secret) <= rule.Entropy {
		return ""
	}
	return secret
}

// entropy is Shannon's, in bits a character.
func entropy(s string) (bits float64) {
	counts := map[rune]int{}
	for _, r := range s {
		counts[r]++
	}
	for _, n := range counts {
		p := float64(n) / float64(len(s))
		bits -= p * math.Log2(p)
	}
	return bits
}

func allowedPath(lists []*config.Allowlist, name string) bool {
	for _, a := range lists {
		if a.MatchCondition != config.AllowlistMatchAnd && a.PathAllowed(name) {
			return true
		}
	}
	return false
}

func allowed(lists []*config.Allowlist, secret, match string) bool {
	for _, a := range lists {
		target := secret
		if a.RegexTarget == "match" || a.RegexTarget == "line" {
			target = match
		}
		if a.MatchCondition == config.AllowlistMatchAnd {
			continue // needs a path, a commit or a line besides: gitleaks' default rules have none that we could judge
		}
		if stop, _ := a.ContainsStopWord(secret); stop || a.RegexAllowed(target) {
			return true
		}
	}
	return false
}
