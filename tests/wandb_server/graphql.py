"""GraphQL operations of the client: one method each, with the operation's name."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import yaml

from wandb_server import sweeps
from wandb_server.store import ENTITY, Agent, Artifact, Run, Store, Sweep, View, global_id, new_name

Variables = dict[str, Any]
SCHEMA = {
    "Query": ["serverInfo", "artifact", "clientIDMapping", "project", "model", "viewer"],
    "Mutation": [
        "upsertSweep",
        "createAgent",
        "agentHeartbeat",
        "createRunFiles",
        "createArtifact",
    ],
    "ServerInfo": ["cliVersionInfo", "latestLocalVersionInfo"],
}


class NotFoundError(Exception):
    """The request names something unknown; the server answers 404."""


class Operations:
    """Operations by name; each takes the variables and returns the `data` object."""

    def __init__(self, store: Store, url: str) -> None:
        self.store, self.url = store, url

    def answer(self, query: str, variables: Variables) -> dict[str, Any]:
        """Answer a query by the method with its name."""
        operation = re.search(r"\b(?:mutation|query)\s+(\w+)", query)
        name = operation[1] if operation else ""
        method = getattr(self, name, None)
        if method is None and "__type" in query:
            return introspect(query, variables)
        if method is None and "viewer" in query:
            return self.Viewer(variables)
        if method is None:
            raise NotFoundError(f"unknown operation {name!r}")
        return method(variables)

    # --- user and server

    def Viewer(self, v: Variables) -> dict[str, Any]:
        team = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "viewer": {
                "id": global_id("User", ENTITY),
                "entity": ENTITY,
                "username": ENTITY,
                "name": ENTITY,
                "email": f"{ENTITY}@localhost",
                "admin": False,
                "flags": "{}",
                "deletedAt": None,
                "apiKeys": {"edges": []},
                "teams": team,
            }
        }

    def ServerInfo(self, v: Variables) -> dict[str, Any]:
        versions = {"min_cli_version": "0.8.0", "max_cli_version": "99.0.0"}
        latest = {
            "outOfDate": False,
            "latestVersionString": "0.80.0",
            "versionOnThisInstanceString": "0.80.0",
        }
        return {
            "serverInfo": {
                "cliVersionInfo": versions,
                "latestLocalVersionInfo": latest,
                "features": [{"name": "SWEEPS_LOCAL_SCHEDULER", "isEnabled": True}],
            }
        }

    GetDefaultEntity = GetViewer = Viewer
    ServerFeaturesQuery = ServerInfo

    def OrganizationCoreWeaveOrganizationID(self, v: Variables) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    # --- runs

    def UpsertBucket(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("project"), v["sweep"]) if v.get("sweep") else None
        if v.get("sweep") and sweep is None:  # wandb issue 8115
            raise NotFoundError(f"sweep {v['sweep']} not found")
        known = self.store.run_by_id(v["id"]) if v.get("id") else None
        run = known or self.store.run_or_new(v.get("project"), v.get("name") or new_name())
        inserted = run.starts == 0
        if run.state not in ("running", "preempting") and v.get("name"):
            run.state = "running"
            run.starts += 1
        run.config.update(json.loads(v.get("config") or "{}"))
        run.summary.update(json.loads(v.get("summaryMetrics") or "{}"))
        run.display_name = v.get("displayName") or run.display_name or run.name
        run.tags = v.get("tags") if v.get("tags") is not None else run.tags
        run.group = v.get("groupName") or run.group
        run.job_type = v.get("jobType") or run.job_type
        run.notes = v.get("notes") or run.notes
        if sweep is not None and run.sweep is None:
            run.sweep = v["sweep"]
            sweep.runs.append(run)
        run.state = v.get("state") or run.state
        return {"upsertBucket": {"bucket": self.run_node(run), "inserted": inserted}}

    def RunResumeStatus(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(v.get("project"), v["name"])
        has_started = run is not None and run.starts > 0
        return {
            "model": {**self.project_node(v), "bucket": self.run_node(run) if has_started else None}
        }

    def RunStoppedStatus(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(v.get("projectName"), v["runId"])
        return {
            "project": {"run": {"stopped": bool(run and run.stopped), "state": run and run.state}}
        }

    def StopRun(self, v: Variables) -> dict[str, Any]:
        run = self.store.run_by_id(v["id"])
        if run is not None:
            run.stop()
        return {"stopRun": {"success": run is not None}}

    def CreateRunFiles(self, v: Variables) -> dict[str, Any]:
        run = self.store.run_or_new(v.get("project"), v["run"])
        run.files += [name for name in v["files"] if name not in run.files]
        files = [
            {"name": n, "uploadUrl": self.blob_url(f"runs/{run.name}/{n}")} for n in v["files"]
        ]
        return {"createRunFiles": {"runID": run.id, "uploadHeaders": [], "files": files}}

    def NotifyScriptableRunAlert(self, v: Variables) -> dict[str, Any]:
        run = self.store.run_or_new(v.get("projectName"), v["runName"])
        run.alerts.append((v["title"], v["text"], v["severity"]))
        return {"notifyScriptableRunAlert": {"success": True}}

    def MarkRunFilesUploaded(self, v: Variables) -> dict[str, Any]:
        return {"markRunFilesUploaded": {"success": True}}

    def GetRun(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(
            v.get("project"), v.get("name") or v.get("run") or v.get("runName", "")
        )
        return {"project": {"internalId": "1", "run": run and self.run_node(run)}}

    Run = LightweightRun = QueryRunInfo = RunFullHistory = RunHistoryKeys = GetRun

    def RunParquetHistory(self, v: Variables) -> dict[str, Any]:
        """Report every row as live, from the first step: nothing was exported yet."""
        run = self.store.run(v.get("project"), v["runName"])
        live = [{"_step": row["_step"]} for row in run.history[:1]] if run else []
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}}

    def HistoryPage(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(v.get("project"), v["run"])
        if run is None:
            raise NotFoundError("no such run")
        rows = [row for row in run.history if v["minStep"] <= row["_step"] < v["maxStep"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in rows]}}}

    def RunFiles(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(v.get("project"), v["name"])
        if run is None:
            raise NotFoundError("no such run")
        names = [name for name in run.files if not v["fileNames"] or name in v["fileNames"]]
        edges = [{"node": self.file_node(run, name), "cursor": name} for name in names]
        page = {"endCursor": None, "hasNextPage": False}
        files = {"edges": edges, "pageInfo": page}
        node = {"fileCount": len(names), "files": files}
        return {"project": {"internalId": "1", "run": node}}

    def RunSampledHistory(self, v: Variables) -> dict[str, Any]:
        run = self.store.run(v.get("project"), v.get("name") or v.get("run", ""))
        if run is None:
            raise NotFoundError("no such run")
        node = {**self.run_node(run), "sampledHistory": sampled(run, v.get("specs", []))}
        return {"project": {"internalId": "1", "run": node}}

    def GetRuns(self, v: Variables) -> dict[str, Any]:
        filters = v.get("filters") or ""
        wanted = re.search(r'"sweep": ?"([^"]+)"', filters)
        runs = [
            run
            for run in self.store.runs.values()
            if run.project == (v.get("project") or "uncategorized")
            and (wanted is None or run.sweep == wanted[1])
        ]
        order = re.fullmatch(r"([+-])summary_metrics\.(.+)", v.get("order") or "")
        if order:
            runs = [run for run in runs if order[2] in run.summary]
            runs.sort(key=lambda run: run.summary[order[2]], reverse=order[1] == "-")
        first = int(v.get("cursor") or 0)
        last = min(first + (v.get("perPage") or len(runs)), len(runs))
        nodes = [self.run_node(run, with_rows=False) for run in runs[first:last]]
        edges = [{"node": node, "cursor": str(first + 1 + n)} for n, node in enumerate(nodes)]
        page = {"endCursor": str(last), "hasNextPage": last < len(runs)}
        found_runs = {"edges": edges, "pageInfo": page}
        return {
            "project": {
                "internalId": "1",
                "runCount": len(runs),
                "readOnly": False,
                "runs": found_runs,
            }
        }

    Runs = LightweightRuns = GetLightweightRuns = GetRuns

    # --- sweeps

    def UpsertSweep(self, v: Variables) -> dict[str, Any]:
        project = v.get("projectName") or "uncategorized"
        sweep = self.store.sweep(project, v["id"]) if v.get("id") else None
        if sweep is None:
            sweep = Sweep(project, new_name(), {})
            self.store.sweeps[project, sweep.name] = sweep
        if v.get("config"):
            sweep.config = yaml.safe_load(v["config"])
        sweep.display_name = v.get("displayName") or sweep.display_name or sweep.config.get("name")
        sweep.state = v.get("state") or sweep.state
        if sweep.state == "CANCELED":
            sweeps.cancel(sweep)
        for prior in json.loads(v.get("priorRunsFilters") or "{}").get("$or", []):
            run = self.store.run(project, prior["name"])
            if run is not None and run not in sweep.runs:
                run.sweep = sweep.name
                sweep.runs.append(run)
        node = self.sweep_node(sweep)
        return {"upsertSweep": {"sweep": node, "configValidationWarnings": []}}

    def SweepWithRuns(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("project"), v.get("sweep") or v.get("name", ""))
        return {"project": {"id": "1", "sweep": sweep and self.sweep_node(sweep)}}

    Sweep = GetSweep = GetSweepLegacy = LegacySweep = GetSweepState = SweepWithRuns

    def SweepConfig(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("project"), v["sweep"])
        controller = {"controllerRunName": sweep and f"{sweep.name}-controller"}
        return {"project": {"sweep": sweep and self.sweep_node(sweep) | controller}}

    def SweepRunsWithHistory(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("project"), v["sweep"])
        if sweep is None:
            return {"project": {"sweep": None}}
        first = int(v.get("cursor") or 0)
        return {
            "project": {"sweep": {"state": sweep.state, "runs": self.page(sweep.runs, first, v)}}
        }

    SweepRuns = SweepRunsWithHistory

    def SweepWatchedRuns(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("project"), v["sweep"])
        runs = [run for run in sweep.runs if run.name in v["filters"]] if sweep else []
        first = int(v.get("cursor") or 0)
        state = {"sweep": sweep and {"state": sweep.state}}
        return {"project": {**state, "runs": self.page(runs, first, v)}}

    def page(self, runs: list[Run], first: int, v: Variables) -> dict[str, Any]:
        """Return `v["first"]` runs from a position on, as a scheduler reads them."""
        end = first + v["first"]
        nodes = [
            self.run_node(run) | {"sampledHistory": sampled(run, v.get("historySpecs", []))}
            for run in runs[first:end]
        ]
        more = {"hasNextPage": end < len(runs), "endCursor": str(end)}
        return {"edges": [{"node": node} for node in nodes], "pageInfo": more}

    def EnqueueSweepRun(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(None, v["id"])
        if sweep is None:
            raise NotFoundError(f"no sweep {v['id']!r}")
        run = sweeps.enqueue(self.store, sweep, json.loads(v["config"]), v.get("displayName"))
        return {"enqueueSweepRun": {"id": run.name, "runQueueItemId": "1"}}

    def UpsertSweepState(self, v: Variables) -> dict[str, Any]:
        return self.UpsertSweep(v)

    def CreateAgent(self, v: Variables) -> dict[str, Any]:
        sweep = self.store.sweep(v.get("projectName"), v["sweep"])
        if sweep is None:
            raise NotFoundError(f"no sweep {v['sweep']!r}")
        identity = global_id("Agent", sweep.name, new_name())
        self.store.agents[identity] = Agent(sweep)
        return {"createAgent": {"agent": {"id": identity}}}

    def Heartbeat(self, v: Variables) -> dict[str, Any]:
        agent = self.store.agents.get(v["id"])
        if agent is None:
            raise NotFoundError("no such agent")
        alive = sweeps.alive_runs(v.get("runState"))
        commands = sweeps.commands(self.store, agent, alive, timeout=self.store.stop_timeout)
        beat = {"agent": {"id": v["id"]}, "commands": json.dumps(commands)}
        return {"agentHeartbeat": beat}

    # --- saved views and reports

    def upsertView(self, v: Variables) -> dict[str, Any]:
        if v.get("id") and v["id"] not in self.store.views:
            raise NotFoundError(f"no view {v['id']!r}")
        identity = v.get("id") or global_id("View", new_name())
        view = self.store.views.setdefault(
            identity, View(v["projectName"], identity, v["name"], v["type"])
        )
        json.loads(v["spec"])  # W&B would refuse another text
        view.display_name, view.description = v["displayName"], v["description"]
        view.spec, view.saves = v["spec"], view.saves + 1
        return {"upsertView": {"view": self.view_node(view), "inserted": not v.get("id")}}

    UpsertView2 = upsertView

    def ProjectViews(self, v: Variables) -> dict[str, Any]:
        """Answer with one page of the views of a kind; three to a page, so that clients page."""
        found = [
            view
            for view in self.store.views.values()
            if view.project == (v.get("project") or v["name"])
            and view.kind == v["viewType"]
            and v.get("viewName") in (None, view.name)
        ]
        start = int(v.get("after") or 0)
        page = found[start : start + 3]
        edges = [
            {"node": self.view_node(view), "cursor": str(start + n)}
            for n, view in enumerate(page, 1)
        ]
        more = {"endCursor": str(start + len(page)), "hasNextPage": start + 3 < len(found)}
        return {"project": {"allViews": {"edges": edges, "pageInfo": more}}}

    View = ProjectViews

    def SpecificReport(self, v: Variables) -> dict[str, Any]:
        return {"view": self.view_node(self.store.views[v["reportId"]])}

    def GetProjects(self, v: Variables) -> dict[str, Any]:
        names = {name for name, _ in (*self.store.sweeps, *self.store.runs)}
        nodes = [
            {
                **self.project_node({"project": name}),
                "__typename": "Project",
                "entityName": ENTITY,
                "createdAt": "2026-01-01T00:00:00",
                "isBenchmark": False,
                "user": None,
            }
            for name in sorted(names)
        ]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node} for node in nodes], "pageInfo": page}}

    def ProjectInternalId(self, v: Variables) -> dict[str, Any]:
        return {"project": {"id": "1", "internalId": "1"}}

    # --- artifacts

    def CreateArtifact(self, v: Variables) -> dict[str, Any]:
        fields = v.get("input") or v
        identity = global_id("Artifact", fields["artifactCollectionName"], fields.get("digest", ""))
        versions = [
            known
            for known in self.store.artifacts.values()
            if known.collection == fields["artifactCollectionName"] and known.id != identity
        ]
        artifact = self.store.artifacts.setdefault(
            identity,
            Artifact(
                id=identity,
                project=fields.get("projectName") or "uncategorized",
                run=fields.get("runName"),
                kind=fields["artifactTypeName"],
                collection=fields["artifactCollectionName"],
                digest=fields.get("digest", ""),
                metadata=fields.get("metadata"),
                version=len(versions),
            ),
        )
        artifact.aliases += [entry["alias"] for entry in fields.get("aliases") or []]
        if fields.get("clientID"):
            self.store.artifact_of_client[fields["clientID"]] = identity
        node = {
            "id": identity,
            "digest": artifact.digest,
            "state": artifact.state,
            "aliases": [],
            "artifactSequence": {"id": f"s{identity}", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": node}}

    def CreateArtifactManifest(self, v: Variables) -> dict[str, Any]:
        return {"createArtifactManifest": {"artifactManifest": self.manifest_node(v["artifactID"])}}

    def UpdateArtifactManifest(self, v: Variables) -> dict[str, Any]:
        identity = v["artifactManifestID"].removeprefix("manifest-")
        return {"updateArtifactManifest": {"artifactManifest": self.manifest_node(identity)}}

    def CreateArtifactFiles(self, v: Variables) -> dict[str, Any]:
        edges = []
        for file in (v.get("input") or v)["artifactFiles"]:
            node = self.blob_node(f"artifacts/{file['artifactID']}/{file['name']}", file["name"])
            edges.append({"node": {**node, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def CommitArtifact(self, v: Variables) -> dict[str, Any]:
        artifact = self.store.artifacts[v["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def ClientIDMapping(self, v: Variables) -> dict[str, Any]:
        server_id = self.store.artifact_of_client.get(v["clientID"])
        return {"clientIDMapping": {"serverID": server_id}}

    def UseArtifact(self, v: Variables) -> dict[str, Any]:
        return {"useArtifact": {"artifact": {"id": (v.get("input") or v).get("artifactID")}}}

    def ArtifactType(self, v: Variables) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    # --- parts of answers

    def blob_url(self, path: str) -> str:
        return f"{self.url}/storage/{path}"

    def blob_node(self, path: str, name: str) -> dict[str, Any]:
        url = self.blob_url(path)
        return {
            "id": path,
            "name": name,
            "displayName": name,
            "uploadUrl": url,
            "directUrl": url,
            "uploadHeaders": [],
            "storagePath": path,
            "uploadMultipartUrls": None,
        }

    def file_node(self, run: Run, name: str) -> dict[str, Any]:
        path = f"runs/{run.name}/{name}"
        return {
            "id": path,
            "name": name,
            "url": self.blob_url(path),
            "directUrl": self.blob_url(path),
            "sizeBytes": len(self.store.blobs.get(path, b"")),
            "mimetype": "application/json",
            "updatedAt": "2026-01-01T00:00:00",
            "md5": "",
        }

    def manifest_node(self, identity: str) -> dict[str, Any]:
        path = f"manifests/{identity}.json"
        self.store.artifacts[identity].manifest_path = path
        return {"id": f"manifest-{identity}", "file": self.blob_node(path, "manifest.json")}

    def project_node(self, v: Variables) -> dict[str, Any]:
        name = v.get("project") or "uncategorized"
        entity = {"id": global_id("Entity", ENTITY), "name": ENTITY}
        return {"id": global_id("Project", ENTITY, name), "name": name, "entity": entity}

    def run_node(self, run: Run, *, with_rows: bool = True) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
        types = {key: {"typeCounts": [{"type": "number"}]} for row in run.history for key in row}
        last = run.history[-1:]
        telemetry = (run.config.get("_wandb", {}).get("value") or {}).get("t")
        files = [self.blob_node(f"runs/{run.name}/{name}", name) for name in run.files]
        return {
            "id": run.id,
            "name": run.name,
            "displayName": run.display_name,
            "description": None,
            "config": json.dumps(run.config),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": "{}",
            "sweepName": run.sweep,
            "state": run.state,
            "stopped": run.stopped,
            "shouldStop": run.stopped,
            "failed": run.state == "failed",
            "running": run.state == "running",
            "exitcode": run.exit_code,
            "tags": run.tags,
            "notes": run.notes,
            "group": run.group,
            "jobType": run.job_type,
            "commit": None,
            "createdAt": now,
            "heartbeatAt": now,
            "updatedAt": now,
            "computeSeconds": 0,
            "readOnly": False,
            "historyKeys": {"keys": types, "lastStep": last[0]["_step"] if last else -1},
            "historyLineCount": run.history_lines,
            "eventsLineCount": run.events,
            "logLineCount": len(run.log),
            "historyTail": json.dumps([json.dumps(row) for row in last]),
            "eventsTail": "[]",
            "wandbConfig": json.dumps({"t": telemetry}),
            "user": {"name": ENTITY, "username": ENTITY},
            "projectId": "1",
            "project": self.project_node({"project": run.project}),
            "sweep": {"name": run.sweep} if run.sweep else None,
            "sampledHistory": [run.history] if with_rows else [],
            "history": [json.dumps(row) for row in run.history] if with_rows else [],
            "files": {
                "edges": [{"node": file} for file in files],
                "pageInfo": {"hasNextPage": False, "endCursor": None},
            },
        }

    def view_node(self, view: View) -> dict[str, Any]:
        return {
            "id": view.id,
            "type": view.kind,
            "name": view.name,
            "displayName": view.display_name,
            "description": view.description,
            "spec": view.spec,
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": "2026-01-01T00:00:00",
            "project": {"id": "1", "name": view.project, "entityName": ENTITY},
        }

    def sweep_node(self, sweep: Sweep) -> dict[str, Any]:
        metric = sweep.config.get("metric") or {}
        scores = [
            run.summary[metric["name"]] for run in sweep.runs if metric.get("name") in run.summary
        ]
        pick = max if metric.get("goal") == "maximize" else min
        return {
            "id": sweep.id,
            "name": sweep.name,
            "displayName": sweep.display_name,
            "method": sweep.config.get("method"),
            "state": sweep.state,
            "description": sweep.config.get("description"),
            "config": yaml.safe_dump(sweep.config, sort_keys=False),
            "createdAt": "2026-01-01T00:00:00",
            "updatedAt": "2026-01-01T00:00:00",
            "heartbeatAt": "2026-01-01T00:00:00",
            "earlyStopJobRunning": False,
            "bestLoss": pick(scores) if scores else None,
            "controller": None,
            "scheduler": None,
            "runCount": len(sweep.runs),
            "runCountExpected": sweep.config.get("run_cap"),
            "priorRuns": {"edges": []},
            "project": self.project_node({"project": sweep.project}),
            "runs": {"edges": [{"node": self.run_node(run)} for run in sweep.runs]},
        }


def sampled(run: Run, specs: list[str]) -> list[list[dict[str, Any]]]:
    """Return the rows that have all keys of each spec, every one of them."""
    wanted = [json.loads(spec).get("keys", []) for spec in specs]
    return [[row for row in run.history if set(keys) <= set(row)] for keys in wanted]


def introspect(query: str, variables: Variables) -> dict[str, Any]:
    """Return the parts of the schema that a client checks before it uses them."""

    def described(name: str) -> dict[str, Any]:
        fields = [
            {"name": field, "args": [{"name": "includeUpload"}, {"name": "name"}]}
            for field in SCHEMA.get(name, [])
        ]
        return {"name": name, "fields": fields, "inputFields": fields}

    named = re.findall(r'(\w+)\s*:\s*__type\(name:\s*"(\w+)"', query)
    if named:
        return {alias: described(name) for alias, name in named}
    alias = re.search(r"(\w+)\s*:\s*__type\(name:\s*\$", query)
    single = re.search(r'__type\(name:\s*"(\w+)"', query)
    name = single[1] if single else variables.get("typeName", "")
    return {alias[1] if alias else "__type": described(name)}
