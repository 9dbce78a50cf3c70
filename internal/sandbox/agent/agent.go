// Package agent holds the two small processes behind a machine of the host provider, both this same binary started
// again through /proc/self/exe:
//
//   - the warden, one for a provider, outside the machines: it makes namespaces, mounts and snapshots, and removes
//     what they leave. It alone has the privileges for that (the host's root, or root in a user namespace).
//   - the agent, one for a machine and its process 1: it starts commands, reaps, packs and unpacks, sets up the
//     network. Jobs are root in the agent's own namespaces: nothing that it says is trusted.
//
// Package initialization takes over when the process was started under one of their names, so this package imports
// little: what sorts behind it has not been initialized yet. It never knows steps, layers' meaning or secrets' names.
package agent
