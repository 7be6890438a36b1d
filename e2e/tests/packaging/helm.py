# Prints what `helm template` would: CHART NAMESPACE VALUES, the values as JSON.
import json
import sys

from helm_python import Chart, chart

path, namespace, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
problems = [m for m in chart.lint(path, values, strict=True, namespace=namespace)["messages"] if m["severity"] > 1]
try:
    rendered = Chart.load(path).render(values, name="slipstream", namespace=namespace)
except Exception as error:
    sys.exit(str(error))
if problems:
    sys.exit(f"helm lint: {problems}")
print("\n---\n".join(rendered.values()))
