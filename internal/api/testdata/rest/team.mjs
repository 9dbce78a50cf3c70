// Administers a repository of a server as octokit does, and holds each answer to GitHub's own description of it. The last
// line that it prints is what it saw, as JSON.
import { Octokit } from "@octokit/rest";
import sodium from "libsodium-wrappers";
import { check, checked, faults, refused } from "./described.mjs";

const { GITHUB_API_URL: baseUrl, TOKEN: auth, READER: reader, MONA } = process.env;
const octokit = new Octokit({ baseUrl, auth });
octokit.hook.after("request", (response, options) => check(options, response));
const here = { owner: "acme", repo: "shop" };
const saw = {};
await sodium.ready;

// seal seals a value as GitHub's page on secrets does.
function seal(value, { key }) {
  const sealed = sodium.crypto_box_seal(sodium.from_string(value), sodium.from_base64(key, sodium.base64_variants.ORIGINAL));
  return sodium.to_base64(sealed, sodium.base64_variants.ORIGINAL);
}

const names = (list) => list.map((s) => s.name);

// The repository's secrets.
const { data: key } = await octokit.rest.actions.getRepoPublicKey(here);
const secret = { ...here, secret_name: "API_TOKEN", encrypted_value: seal("s3cret", key), key_id: key.key_id };
saw.newSecret = (await octokit.rest.actions.createOrUpdateRepoSecret(secret)).status;
saw.sameSecret = (await octokit.rest.actions.createOrUpdateRepoSecret(secret)).status;
saw.secrets = names((await octokit.rest.actions.listRepoSecrets(here)).data.secrets);
saw.secret = Object.keys((await octokit.rest.actions.getRepoSecret(secret)).data).sort();
saw.largest = (await octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, secret_name: "big", encrypted_value: seal("x".repeat(48 * 1024), key) })).status;
saw.tooLarge = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, encrypted_value: seal("x".repeat(48 * 1024 + 1), key) }));
saw.otherKey = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, key_id: "other" }));
saw.notSealed = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, encrypted_value: "czNjcmV0" }));
saw.notBase64 = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, encrypted_value: "!" }));
saw.badName = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, secret_name: "1ST" }));
saw.reserved = await refused(octokit.rest.actions.createOrUpdateRepoSecret({ ...secret, secret_name: "GITHUB_X" }));
await octokit.rest.actions.deleteRepoSecret({ ...here, secret_name: "big" });
saw.goneSecret = await refused(octokit.rest.actions.getRepoSecret({ ...here, secret_name: "big" }));

// Variables.
await octokit.rest.actions.createRepoVariable({ ...here, name: "region", value: "north" });
saw.variableTwice = await refused(octokit.rest.actions.createRepoVariable({ ...here, name: "REGION", value: "x" }));
await octokit.rest.actions.updateRepoVariable({ ...here, name: "REGION", value: "south" });
saw.variable = [(await octokit.rest.actions.getRepoVariable({ ...here, name: "REGION" })).data].map((v) => [v.name, v.value]);
saw.variables = names((await octokit.rest.actions.listRepoVariables(here)).data.variables);
saw.longVariable = await refused(octokit.rest.actions.createRepoVariable({ ...here, name: "LONG", value: "x".repeat(48 * 1024 + 1) }));
await octokit.rest.actions.createRepoVariable({ ...here, name: "other", value: "" });
await octokit.rest.actions.deleteRepoVariable({ ...here, name: "other" });

// The organisation's, for some of its repositories.
const { data: shop } = await octokit.rest.repos.get(here);
const { data: orgKey } = await octokit.rest.actions.getOrgPublicKey({ org: "acme" });
const ofOrg = { org: "acme", secret_name: "SHARED", encrypted_value: seal("ours", orgKey), key_id: orgKey.key_id };
await octokit.rest.actions.createOrUpdateOrgSecret({ ...ofOrg, visibility: "selected", selected_repository_ids: [shop.id] });
saw.orgSecret = (await octokit.rest.actions.getOrgSecret(ofOrg)).data.visibility;
saw.orgSecrets = names((await octokit.rest.actions.listOrgSecrets({ org: "acme" })).data.secrets);
saw.selected = (await octokit.rest.actions.listSelectedReposForOrgSecret(ofOrg)).data.repositories.map((r) => r.full_name);
saw.seen = names((await octokit.rest.actions.listRepoOrganizationSecrets(here)).data.secrets);
await octokit.rest.actions.setSelectedReposForOrgSecret({ ...ofOrg, selected_repository_ids: [] });
saw.unseen = names((await octokit.rest.actions.listRepoOrganizationSecrets(here)).data.secrets);
await octokit.rest.actions.addSelectedRepoToOrgSecret({ ...ofOrg, repository_id: shop.id });
await octokit.rest.actions.removeSelectedRepoFromOrgSecret({ ...ofOrg, repository_id: shop.id });
saw.selectNobody = await refused(octokit.rest.actions.setSelectedReposForOrgSecret({ ...ofOrg, selected_repository_ids: [4000] }));
await octokit.rest.actions.deleteOrgSecret(ofOrg);
await octokit.rest.actions.createOrgVariable({ org: "acme", name: "TEAM", value: "ours", visibility: "all" });
await octokit.rest.actions.updateOrgVariable({ org: "acme", name: "TEAM", visibility: "selected", selected_repository_ids: [shop.id] });
saw.orgVariable = (await octokit.rest.actions.getOrgVariable({ org: "acme", name: "TEAM" })).data.visibility;
saw.selectedOfVariable = (await octokit.rest.actions.listSelectedReposForOrgVariable({ org: "acme", name: "TEAM" })).data.total_count;
saw.seenVariables = names((await octokit.rest.actions.listRepoOrganizationVariables(here)).data.variables);
await octokit.rest.actions.deleteOrgVariable({ org: "acme", name: "TEAM" });

// Environments.
const production = { ...here, environment_name: "production" };
const { data: made } = await octokit.rest.repos.createOrUpdateEnvironment({
  ...production, wait_timer: 0, prevent_self_review: false, reviewers: [{ type: "User", id: Number(MONA) }], deployment_branch_policy: { protected_branches: false, custom_branch_policies: true },
});
saw.rules = made.protection_rules.map((r) => [r.type, r.reviewers?.map((p) => p.reviewer.login)]);
saw.environments = names((await octokit.rest.repos.getAllEnvironments(here)).data.environments);
await octokit.rest.repos.getEnvironment(production);
const { data: policy } = await octokit.rest.repos.createDeploymentBranchPolicy({ ...production, name: "main" });
await octokit.rest.repos.getDeploymentBranchPolicy({ ...production, branch_policy_id: policy.id });
await octokit.rest.repos.updateDeploymentBranchPolicy({ ...production, branch_policy_id: policy.id, name: "ma*" });
const { data: spare } = await octokit.rest.repos.createDeploymentBranchPolicy({ ...production, name: "v*", type: "tag" });
await octokit.rest.repos.deleteDeploymentBranchPolicy({ ...production, branch_policy_id: spare.id });
saw.policies = names((await octokit.rest.repos.listDeploymentBranchPolicies(production)).data.branch_policies);
saw.noReviewer = await refused(octokit.rest.repos.createOrUpdateEnvironment({ ...production, reviewers: [{ type: "User", id: 4000 }] }));
saw.longWait = await refused(octokit.rest.repos.createOrUpdateEnvironment({ ...production, wait_timer: 43201 }));
saw.bothPolicies = await refused(octokit.rest.repos.createOrUpdateEnvironment({ ...production, deployment_branch_policy: { protected_branches: true, custom_branch_policies: true } }));
saw.noEnvironment = await refused(octokit.rest.repos.getEnvironment({ ...here, environment_name: "nowhere" }));
const { data: placeKey } = await octokit.rest.actions.getEnvironmentPublicKey(production);
const ofPlace = { ...production, secret_name: "API_TOKEN", encrypted_value: seal("theirs", placeKey), key_id: placeKey.key_id };
await octokit.rest.actions.createOrUpdateEnvironmentSecret(ofPlace);
saw.placeSecrets = names((await octokit.rest.actions.listEnvironmentSecrets(production)).data.secrets);
await octokit.rest.actions.getEnvironmentSecret(ofPlace);
await octokit.rest.actions.createEnvironmentVariable({ ...production, name: "REGION", value: "east" });
saw.placeVariables = names((await octokit.rest.actions.listEnvironmentVariables(production)).data.variables);
await octokit.rest.actions.deleteEnvironmentVariable({ ...production, name: "REGION" });
await octokit.rest.actions.deleteEnvironmentSecret(ofPlace);

// Artifacts, and the caches.
const { data: artifacts } = await octokit.rest.actions.listArtifactsForRepo({ ...here, per_page: 1 });
saw.artifacts = [artifacts.total_count, artifacts.artifacts.map((a) => [a.name, a.size_in_bytes, a.expired, a.workflow_run.id])];
saw.ofRun = names((await octokit.rest.actions.listWorkflowRunArtifacts({ ...here, run_id: 1, name: "dist" })).data.artifacts);
const one = { ...here, artifact_id: (await octokit.rest.actions.listWorkflowRunArtifacts({ ...here, run_id: 1, name: "dist" })).data.artifacts[0].id };
saw.artifact = (await octokit.rest.actions.getArtifact(one)).data.name;
saw.zip = Buffer.from((await octokit.rest.actions.downloadArtifact({ ...one, archive_format: "zip" })).data).toString();
saw.tar = await refused(octokit.rest.actions.downloadArtifact({ ...one, archive_format: "tar" }));
const { data: old } = await octokit.rest.actions.listArtifactsForRepo({ ...here, name: "old" });
saw.old = old.artifacts.map((a) => a.expired);
saw.oldZip = await refused(octokit.rest.actions.downloadArtifact({ ...here, artifact_id: old.artifacts[0].id, archive_format: "zip" }));
await octokit.rest.repos.createInOrg({ org: "acme", name: "elsewhere" });
const elsewhere = { owner: "acme", repo: "elsewhere" };
saw.othersArtifact = await refused(octokit.rest.actions.downloadArtifact({ ...elsewhere, artifact_id: one.artifact_id, archive_format: "zip" }));
saw.othersArtifacts = (await octokit.rest.actions.listArtifactsForRepo(elsewhere)).data.total_count;
saw.othersCaches = (await octokit.rest.actions.getActionsCacheList(elsewhere)).data.total_count;
saw.othersCache = await refused(octokit.rest.actions.deleteActionsCacheById({ ...elsewhere, cache_id: (await octokit.rest.actions.getActionsCacheList(here)).data.actions_caches[0].id }));
await octokit.rest.actions.deleteArtifact(one);
saw.goneArtifact = await refused(octokit.rest.actions.getArtifact(one));
saw.usage = (await octokit.rest.actions.getActionsCacheUsage(here)).data;
const { data: caches } = await octokit.rest.actions.getActionsCacheList({ ...here, key: "npm-", sort: "size_in_bytes", direction: "asc" });
saw.caches = caches.actions_caches.map((c) => [c.key, c.ref, c.size_in_bytes]);
await octokit.rest.actions.deleteActionsCacheById({ ...here, cache_id: caches.actions_caches[0].id });
saw.deletedByKey = (await octokit.rest.actions.deleteActionsCacheByKey({ ...here, key: "npm-2" })).data.total_count;
saw.cachesLeft = (await octokit.rest.actions.getActionsCacheList(here)).data.actions_caches.map((c) => c.key);
saw.noCache = await refused(octokit.rest.actions.deleteActionsCacheByKey({ ...here, key: "npm" }));

// People and repositories.
await octokit.rest.repos.createForAuthenticatedUser({ name: "notes", private: true });
await octokit.rest.repos.createInOrg({ org: "acme", name: "second" });
saw.repositoryTwice = await refused(octokit.rest.repos.createInOrg({ org: "acme", name: "Second" }));
saw.badRepository = await refused(octokit.rest.repos.createInOrg({ org: "acme", name: "a b/c" }));
saw.repositories = (await octokit.rest.repos.listForAuthenticatedUser()).data.map((r) => r.full_name);
await octokit.rest.users.getByUsername({ username: "mona" });
await octokit.rest.repos.addCollaborator({ ...here, username: "mona", permission: "pull" });
saw.collaborators = (await octokit.rest.repos.listCollaborators(here)).data.map((u) => [u.login, u.role_name]);
saw.noPermission = (await octokit.rest.repos.getCollaboratorPermissionLevel({ owner: "acme", repo: "second", username: "mona" })).data.permission;
saw.permission = (await octokit.rest.repos.getCollaboratorPermissionLevel({ ...here, username: "mona" })).data.permission;
saw.nobody = await refused(octokit.rest.repos.addCollaborator({ ...here, username: "nobody" }));

// A reader changes nothing, and knows nothing of others' places.
const mona = new Octokit({ baseUrl, auth: reader });
saw.readerSees = (await mona.rest.repos.listForAuthenticatedUser()).data.map((r) => r.full_name);
saw.readerSets = await refused(mona.rest.actions.createOrUpdateRepoSecret(secret));
saw.readerLists = await refused(mona.rest.actions.listRepoSecrets(here));
saw.readerProtects = await refused(mona.rest.repos.createOrUpdateEnvironment(production));
saw.readerInvites = await refused(mona.rest.repos.addCollaborator({ ...here, username: "mona", permission: "admin" }));
saw.readerOfOrg = await refused(mona.rest.actions.listOrgSecrets({ org: "acme" }));
saw.readerDeletes = await refused(mona.rest.actions.deleteActionsCacheByKey({ ...here, key: "go-1" }));
saw.readerDeletesArtifact = await refused(mona.rest.actions.deleteArtifact({ ...here, artifact_id: artifacts.artifacts[0].id }));
saw.readerDispatches = await refused(mona.rest.repos.createDispatchEvent({ ...here, event_type: "x" }));
saw.readerElsewhere = await refused(mona.rest.repos.get({ owner: "acme", repo: "second" }));
saw.readerCreates = await refused(mona.rest.repos.createInOrg({ org: "acme", name: "third" }));

// Runners, which are the server's whichever place asks.
const { data: joining } = await octokit.rest.actions.createRegistrationTokenForRepo(here);
await octokit.rest.actions.createRemoveTokenForRepo(here);
await octokit.rest.actions.createRegistrationTokenForOrg({ org: "acme" });
saw.joining = [joining.token.slice(0, 4), new Date(joining.expires_at) > new Date()];
const { data: runners } = await octokit.rest.actions.listSelfHostedRunnersForRepo(here);
saw.runners = runners.runners.map((r) => [r.name, r.os, r.status, r.busy, r.labels.map((l) => `${l.name} ${l.type}`)]);
const runner = { ...here, runner_id: runners.runners[0].id };
await octokit.rest.actions.getSelfHostedRunnerForRepo(runner);
await octokit.rest.actions.addCustomLabelsToSelfHostedRunnerForRepo({ ...runner, labels: ["gpu", "Fast", "linux"] });
saw.runnerLabels = names((await octokit.rest.actions.listLabelsForSelfHostedRunnerForRepo(runner)).data.labels);
await octokit.rest.actions.removeCustomLabelFromSelfHostedRunnerForRepo({ ...runner, name: "fast" });
saw.readOnlyLabel = await refused(octokit.rest.actions.removeCustomLabelFromSelfHostedRunnerForRepo({ ...runner, name: "self-hosted" }));
saw.noLabel = await refused(octokit.rest.actions.removeCustomLabelFromSelfHostedRunnerForRepo({ ...runner, name: "none" }));
saw.badLabel = await refused(octokit.rest.actions.setCustomLabelsForSelfHostedRunnerForRepo({ ...runner, labels: ["a,b"] }));
saw.newLabels = names((await octokit.rest.actions.setCustomLabelsForSelfHostedRunnerForRepo({ ...runner, labels: ["one"] })).data.labels);
await octokit.rest.actions.removeAllCustomLabelsFromSelfHostedRunnerForRepo(runner);
saw.orgRunners = (await octokit.rest.actions.listSelfHostedRunnersForOrg({ org: "acme", name: "far" })).data.total_count;
await octokit.rest.actions.deleteSelfHostedRunnerFromRepo(runner);
saw.goneRunner = await refused(octokit.rest.actions.getSelfHostedRunnerForRepo(runner));
await mona.rest.repos.createForAuthenticatedUser({ name: "own" });
saw.ownerRegisters = await refused(mona.rest.actions.createRegistrationTokenForRepo({ owner: "mona", repo: "own" }));

// What workflows run on.
await octokit.rest.repos.createDispatchEvent({ ...here, event_type: "rebuild", client_payload: { why: "because" } });
saw.manyMembers = await refused(octokit.rest.repos.createDispatchEvent({ ...here, event_type: "x", client_payload: Object.fromEntries([...Array(11).keys()].map((k) => [k, k])) }));
saw.bigPayload = await refused(octokit.rest.repos.createDispatchEvent({ ...here, event_type: "x", client_payload: { a: "x".repeat(64 * 1024) } }));
const { data: pull } = await octokit.rest.pulls.create({ ...here, title: "One", head: "topic", base: "main" });
const number = { ...here, issue_number: pull.number };
saw.labels = names((await octokit.rest.issues.addLabels({ ...number, labels: ["a", "b"] })).data);
await octokit.rest.issues.removeLabel({ ...number, name: "a" });
saw.manyLabels = await refused(octokit.rest.issues.setLabels({ ...number, labels: [...Array(101).keys()].map(String) }));
await octokit.rest.pulls.update({ ...here, pull_number: pull.number, title: "Two" });
await octokit.rest.pulls.update({ ...here, pull_number: pull.number, state: "closed" });
saw.mergeClosed = await refused(octokit.rest.pulls.merge({ ...here, pull_number: pull.number }));
await octokit.rest.pulls.update({ ...here, pull_number: pull.number, state: "open" });
saw.notMerged = await refused(octokit.rest.pulls.checkIfMerged({ ...here, pull_number: pull.number }));
saw.otherHead = await refused(octokit.rest.pulls.merge({ ...here, pull_number: pull.number, sha: "0".repeat(40) }));
saw.badMethod = await refused(octokit.rest.pulls.merge({ ...here, pull_number: pull.number, merge_method: "fast" }));
saw.readerMerges = await refused(mona.rest.pulls.merge({ ...here, pull_number: pull.number }));
const { data: merged } = await octokit.rest.pulls.merge({ ...here, pull_number: pull.number, merge_method: "squash", commit_title: "Both" });
const { data: after } = await octokit.rest.pulls.get({ ...here, pull_number: pull.number });
saw.merged = [after.merged, after.state, after.merged_by.login, after.merge_commit_sha === merged.sha, (await octokit.rest.repos.getCommit({ ...here, ref: "main" })).data.sha === merged.sha];
saw.mergedMessage = (await octokit.rest.repos.getCommit({ ...here, ref: "main" })).data.commit.message;
saw.mergeTwice = await refused(octokit.rest.pulls.merge({ ...here, pull_number: pull.number }));
saw.reopenMerged = await refused(octokit.rest.pulls.update({ ...here, pull_number: pull.number, state: "open" }));
const { data: issue } = await octokit.rest.issues.create({ ...here, title: "A fault", labels: ["bug"] });
await octokit.rest.issues.createComment({ ...here, issue_number: issue.number, body: "first" });
await octokit.rest.issues.update({ ...here, issue_number: issue.number, state: "closed" });
const { data: draft } = await octokit.rest.repos.createRelease({ ...here, tag_name: "v1.0.0", draft: true });
await octokit.rest.repos.updateRelease({ ...here, release_id: draft.id, draft: false });
const { data: deployment } = await octokit.rest.repos.createDeployment({ ...here, ref: "main", environment: "preview", auto_merge: false, required_contexts: [] });
await octokit.rest.repos.createDeploymentStatus({ ...here, deployment_id: deployment.id, state: "success" });
const { data: next } = await octokit.rest.repos.createDeployment({ ...here, ref: "main", environment: "preview", auto_merge: false, required_contexts: [] });
await octokit.rest.repos.createDeploymentStatus({ ...here, deployment_id: next.id, state: "success" });
saw.superseded = (await octokit.rest.repos.listDeploymentStatuses({ ...here, deployment_id: deployment.id })).data.map((s) => s.state);
await octokit.rest.repos.createDeploymentStatus({ ...here, deployment_id: next.id, state: "inactive" });

// A deployment that waits for its reviewer.
await octokit.rest.actions.createWorkflowDispatch({ ...here, workflow_id: "deploy.yml", ref: "main" });
const { data: listed } = await octokit.rest.actions.listWorkflowRuns({ ...here, workflow_id: "deploy.yml" });
const waiting = { ...here, run_id: listed.workflow_runs[0].id };
const { data: pending } = await octokit.rest.actions.getPendingDeploymentsForRun(waiting);
saw.pending = pending.map((p) => [p.environment.name, p.current_user_can_approve, p.reviewers.map((r) => r.reviewer.login)]);
const review = { ...waiting, environment_ids: [pending[0].environment.id], state: "approved", comment: "go" };
saw.reviewsNothing = await refused(octokit.rest.actions.reviewPendingDeploymentsForRun({ ...review, environment_ids: [] }));
saw.badReview = await refused(octokit.rest.actions.reviewPendingDeploymentsForRun({ ...review, state: "perhaps" }));
await octokit.rest.repos.addCollaborator({ ...here, username: "mona", permission: "push" });
await mona.rest.actions.reviewPendingDeploymentsForRun(review);
saw.approvals = (await octokit.rest.actions.getReviewsForRun(waiting)).data.map((r) => [r.state, r.user.login, r.comment]);
saw.reviewTwice = await refused(mona.rest.actions.reviewPendingDeploymentsForRun(review));
await octokit.rest.repos.removeCollaborator({ ...here, username: "mona" });
saw.outside = await refused(mona.rest.repos.get(here));
await octokit.rest.repos.deleteAnEnvironment(production);
console.log(JSON.stringify({ saw, faults, checked }));
